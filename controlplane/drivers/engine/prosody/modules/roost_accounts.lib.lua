-- Accounts of the instance's own domain, for mod_roost_control.

local array = require "util.array";
local datamanager = require "core.storagemanager".olddm;
local modulemanager = require "core.modulemanager";
local nodeprep = require "util.encodings".stringprep.nodeprep;
local usermanager = require "core.usermanager";
local database = module:require "roost_database";

local host = module:get_option_string("roost_host");
local upload_host = module:get_option_string("roost_upload_host");
local probe = module:get_option_string("roost_probe_account");

local function username_of(arguments)
	local username = arguments.username;
	if type(username) ~= "string" or username == "" or nodeprep(username, true) ~= username then
		refuse("Prosody would change or refuse the name " .. tostring(username), "invalid");
	end
	return username;
end

-- Not usermanager.user_exists: that takes a session for an account.
local function exists(username)
	return usermanager.get_provider(host).user_exists(username) and true or false;
end

local function existing(arguments)
	local username = username_of(arguments);
	if not exists(username) then refuse("there is no account " .. username); end
	return username;
end

local function disabling()
	return prosody.hosts[host].modules.roost_accounts;
end

-- http_file_share keeps a deleted account's files until they expire.
local function delete_uploads(username)
	local uploads = module:context(upload_host):open_store("uploads", "archive");
	local owner = username .. "@" .. host;
	local files = uploads:find(nil, { with = owner });
	if not files then return; end
	for slot in files do
		os.remove(datamanager.getpath(slot, upload_host, "http_file_share", "bin"));
	end
	uploads:delete(nil, { with = owner });
end

-- Two modules of 0.12 keep what they know of an account in memory when it is deleted, and would hand it to the
-- next account of that name: the roster's cache its contacts, cloud_notify the devices to push to.
local function forget(username, had_devices)
	local rosters = prosody.hosts[host].roster_cache;
	if rosters then rosters:set(username .. "@" .. host, nil); end
	if had_devices then must(modulemanager.reload(host, "cloud_notify")); end
end

local function last_active(store, username)
	local latest;
	for _, event in pairs(store:get(username) or {}) do
		local when = type(event) == "table" and event.timestamp;
		if when and (not latest or when > latest) then latest = when; end
	end
	return latest;
end

return {
	create_account = function (arguments)
		local username = username_of(arguments);
		if exists(username) then return false; end
		must(usermanager.create_user(username, arguments.password, host));
		return true;
	end;

	set_password = function (arguments)
		must(usermanager.set_password(existing(arguments), arguments.password, host));
		return true;
	end;

	set_account_enabled = function (arguments)
		must(disabling().set_enabled(existing(arguments), arguments.enabled));
		return true;
	end;

	delete_account = function (arguments)
		local username = username_of(arguments);
		if not exists(username) then return false; end
		delete_uploads(username);
		local had_devices = module:context(host):open_store("cloud_notify"):get(username) ~= nil;
		-- It also forgets how many messages there were, which deleting the account by itself does not.
		must(module:context(host):open_store("archive", "archive"):delete(username));
		must(usermanager.delete_user(username, host));
		forget(username, had_devices);
		database.forget();
		return true;
	end;

	list_accounts = function ()
		local accounts = array();
		local lastlog = module:context(host):open_store("lastlog2");
		local sessions = prosody.hosts[host].sessions;
		for username in usermanager.users(host) do
			if username ~= probe then
				accounts:push({
					username = username;
					enabled = not disabling().is_disabled(username);
					online = sessions[username] ~= nil;
					last_active = last_active(lastlog, username);
				});
			end
		end
		return accounts;
	end;
}
