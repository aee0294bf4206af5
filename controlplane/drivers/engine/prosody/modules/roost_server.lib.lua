-- The server as a whole, for mod_roost_control.

local array = require "util.array";
local config = require "core.configmanager";
local modulemanager = require "core.modulemanager";
local serialize = require "util.serialization".new("compact");
local time = require "util.time";
local usermanager = require "core.usermanager";

local host = module:get_option_string("roost_host");
local muc_host = module:get_option_string("roost_muc_host");
local upload_host = module:get_option_string("roost_upload_host");
local probe = module:get_option_string("roost_probe_account");

-- Options of live.cfg.lua that modules read only once, when they are loaded. These modules can be loaded again
-- without dropping a session.
local reloadable = {
	{ "*", "limits", { "limits" } };
	{ host, "disco", { "name" } };
	{ host, "roost_serverinfo", { "contact_info", "roost_publish_links", "roost_publish_links_every" } };
	{ host, "roost_outage", { "roost_outage_url" } };
	{ host, "turn_external", { "turn_external_host", "turn_external_port", "turn_external_tls_port",
		"turn_external_secret", "turn_external_user", "turn_external_ttl", "turn_external_tcp" } };
	{ host, "mam", { "archive_expires_after" } };
	{ muc_host, "muc_mam", { "muc_log_expires_after" } };
	{ upload_host, "http_file_share", { "http_file_share_size_limit", "http_file_share_daily_quota",
		"http_file_share_global_quota", "http_file_share_expires_after" } };
};

local function values(of_host, options)
	local found = {};
	for i, option in ipairs(options) do
		found[i] = serialize(config.get(of_host, option));
	end
	return table.concat(found, "\n");
end

local function load_again(of_host, name)
	local loaded = modulemanager.is_loaded(of_host, name);
	if name == "turn_external" and not config.get(of_host, "turn_external_secret") then
		if loaded then must(modulemanager.unload(of_host, name)); end -- TURN was taken away
	elseif loaded then
		must(modulemanager.reload(of_host, name));
	else
		must(modulemanager.load(of_host, name));
	end
end

local function count(table_)
	local n = 0;
	for _ in pairs(table_) do n = n + 1; end
	return n;
end

return {
	health = function ()
		local sessions = 0;
		for _, user in pairs(prosody.hosts[host].sessions) do
			sessions = sessions + count(user.sessions);
		end
		return {
			version = "Prosody " .. prosody.version;
			uptime_s = time.now() - prosody.start_time;
			sessions = sessions;
		};
	end;

	reload = function ()
		local before = {};
		for i, entry in ipairs(reloadable) do
			before[i] = values(entry[1], entry[3]);
		end
		local ok, err = prosody.reload_config();
		if not ok then refuse("the configuration was not taken: " .. tostring(err)); end
		prosody.reopen_logfiles();
		local reloaded = array();
		for i, entry in ipairs(reloadable) do
			local of_host, name, options = entry[1], entry[2], entry[3];
			if values(of_host, options) ~= before[i] then
				load_again(of_host, name);
				reloaded:push(name);
			end
		end
		return reloaded;
	end;

	purge_dns_cache = function ()
		local have_unbound, unbound = pcall(require, "net.unbound"); -- the shell's dns:purge() fails with it
		if have_unbound then
			unbound.dns.purge();
		else
			require "net.adns".resolver()._resolver:purge();
		end
		return true;
	end;

	usage = function ()
		local accounts, upload_bytes, rooms = 0, 0, {};
		for username in usermanager.users(host) do
			if username ~= probe then accounts = accounts + 1; end
		end
		for room in prosody.hosts[muc_host].modules.muc.live_rooms() do
			rooms[room.jid] = not room._data.destroyed or nil;
		end
		for room_jid in pairs(module:context(muc_host):open_store("persistent"):get(nil) or {}) do
			rooms[room_jid] = true;
		end
		local uploads = module:context(upload_host):open_store("uploads", "archive"):find(nil);
		if uploads then
			for _, file in uploads do
				upload_bytes = upload_bytes + (tonumber(file.attr.size) or 0);
			end
		end
		local online = prosody.hosts[host].sessions;
		return {
			accounts = accounts;
			online = count(online) - (online[probe] and 1 or 0);
			rooms = count(rooms);
			upload_bytes = upload_bytes;
		};
	end;
}
