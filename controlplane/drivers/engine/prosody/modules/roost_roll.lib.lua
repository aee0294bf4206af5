-- All members and rooms that are kept, for mod_roost_control; Roost compares them after a restart.
--
-- It is asked every minute and must not keep clients waiting: what is made of a file that has not changed is used
-- again, between portions everybody else has a turn, and the answer is put together from pieces of JSON that are there.
-- Who knows the digest already is not told everything again.

local async = require "util.async";
local datamanager = require "core.storagemanager".olddm;
local jid = require "util.jid";
local json = require "util.json";
local lfs = require "lfs";
local settings_of = module:require "roost_settings";
local sha256 = require "util.hashes".sha256;
local time = require "util.time";
local usermanager = require "core.usermanager";

local host = module:get_option_string("roost_host");
local muc_host = module:get_option_string("roost_muc_host");
local probe = module:get_option_string("roost_probe_account");

local portion = 20;
-- With other digests, what is before the colon has to change: what was kept by an older version is no loss then.
local kind = "p1:";
-- Rooms that Roost's checks make and destroy.
local checks = "roost-check-";
-- mod_bookmarks keeps those of old clients (XEP-0048, XEP-0049) in the first one, too.
local bookmark_stores = { "pep_urn:xmpp:bookmarks:1", "pep_storage:bookmarks" };

local known_files = {}; -- path -> { stamp, what was made of it }

-- JSON that is the same for the same value, whatever the order of a table's keys.
local function canonical(value)
	if type(value) ~= "table" then return json.encode(value); end
	local parts = {};
	for key, inner in pairs(value) do
		table.insert(parts, json.encode(tostring(key)) .. ":" .. canonical(inner));
	end
	table.sort(parts);
	return "{" .. table.concat(parts, ",") .. "}";
end

local function digest_of(text)
	return kind .. sha256(text, true):sub(1, 16);
end

-- The value that is made of a file, from memory if the file is as it was.
local function from_file(files, path, read)
	local found = lfs.attributes(path);
	if not found then return nil; end
	local stamp = string.format("%d:%d:%d", found.modification, found.size, found.ino);
	local entry = known_files[path];
	if not entry or entry[1] ~= stamp then
		entry = { stamp, read() };
	end
	-- Times are in seconds: one that was written just now could be written again without a trace.
	if os.difftime(os.time(), found.modification) > 2 then files[path] = entry; end
	return entry[2];
end

local function roster_of(username)
	local items, count = {}, 0;
	for contact, item in pairs(datamanager.load(username, host, "roster") or {}) do
		if type(contact) == "string" and contact ~= "pending" then
			count = count + 1;
			items[contact] = { item.name or "", item.subscription or "none", item.groups or {} };
		end
	end
	return { count, digest_of(canonical(items)) };
end

local nobody = { 0, digest_of(canonical({})) };

local function bookmarks_of(files, username)
	local count, lines = 0, {};
	for _, store in ipairs(bookmark_stores) do
		local path = datamanager.getpath(username, host, store, "list");
		local found = from_file(files, path, function ()
			local list = datamanager.list_load(username, host, store) or {};
			return { #list, canonical(list) };
		end);
		if found and found[1] > 0 then
			count = count + found[1];
			table.insert(lines, found[2]);
		end
	end
	if count == 0 then return nobody; end
	return { count, digest_of(table.concat(lines)) };
end

-- As muc.lib.lua reads them: in the older format in a table of their own, else beside what has no bare JID for a name.
local function stored_affiliations(stored)
	if stored.jid and stored._affiliations then return stored._affiliations; end
	local found = {};
	for who, affiliation in pairs(stored) do
		local _, domain, resource = jid.split(who);
		if domain and domain:sub(1, 1) ~= "_" and not resource and type(affiliation) == "string" then
			found[who] = affiliation;
		end
	end
	return found;
end

local function described(data, affiliations)
	local kept = {};
	for who, affiliation in pairs(affiliations) do
		if affiliation ~= "none" then kept[who] = affiliation; end
	end
	return canonical({ settings = settings_of(data), subject = data.subject or "", affiliations = kept });
end

local function is_kept(data)
	return data and data.persistent and not data.destroyed;
end

local function stored_room(room_name)
	local stored = datamanager.load(room_name, muc_host, "config");
	local kept = stored and is_kept(stored._data);
	return { text = kept and described(stored._data, stored_affiliations(stored)) or nil };
end

local function live_room(room)
	local affiliations = {};
	for who, affiliation in room:each_affiliation() do affiliations[who] = affiliation; end
	return is_kept(room._data) and described(room._data, affiliations) or nil;
end

-- Every so often lets the others have their turn.
local function pacer()
	local count = 0;
	return function ()
		count = count + 1;
		if count % portion == 0 then async.sleep(0); end
	end;
end

-- Name -> JSON.
local function rooms_of(files, turn)
	local rooms, names = {}, {};
	for room_jid in pairs(module:context(muc_host):open_store("persistent"):get(nil) or {}) do
		names[jid.node(room_jid)] = true;
	end
	-- In one go: who is in memory changes while others have their turn.
	for room in prosody.hosts[muc_host].modules.muc.live_rooms() do
		local name = jid.node(room.jid);
		names[name] = nil;
		rooms[name] = live_room(room);
	end
	for name in pairs(names) do
		turn();
		local path = datamanager.getpath(name, muc_host, "config");
		local found = from_file(files, path, function () return stored_room(name); end);
		rooms[name] = found and found.text;
	end
	for name in pairs(rooms) do
		if name:sub(1, #checks) == checks then rooms[name] = nil; end
	end
	return rooms;
end

local function members_of(files, turn)
	local names, members = {}, {};
	for username in usermanager.users(host) do
		if username ~= probe then table.insert(names, username); end
	end
	for _, username in ipairs(names) do
		turn();
		local path = datamanager.getpath(username, host, "roster");
		local roster = from_file(files, path, function () return roster_of(username); end) or nobody;
		local bookmarks = bookmarks_of(files, username);
		members[username] = string.format('[%d,"%s",%d,"%s"]', roster[1], roster[2], bookmarks[1], bookmarks[2]);
	end
	return members;
end

-- An object of texts that are JSON already.
local function object_of(texts)
	local parts = {};
	for name, text in pairs(texts) do
		table.insert(parts, json.encode(name) .. ":" .. text);
	end
	table.sort(parts);
	return "{" .. table.concat(parts, ",") .. "}";
end

return {
	roll = function (arguments)
		local files, turn = {}, pacer();
		local rooms = rooms_of(files, turn);
		local members = members_of(files, turn);
		known_files = files;
		local text = '{"rooms":' .. object_of(rooms) .. ',"members":' .. object_of(members) .. "}";
		local digest = kind .. sha256(text, true):sub(1, 48);
		local same = digest == arguments.known;
		return {
			digest = digest;
			uptime_s = time.now() - prosody.start_time;
			same = same;
			text = not same and text or nil;
		};
	end;
}
