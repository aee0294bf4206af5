-- Everything of an instance as portable elements, and back, for mod_roost_control: the calls. The elements are in
-- docs/contracts/portable.md; they are made in roost_user (with roost_pep, roost_vcard, roost_offline), roost_archive,
-- roost_uploads and roost_portable_rooms.

local nodeprep = require "util.encodings".stringprep.nodeprep;
local usermanager = require "core.usermanager";
local archives = module:require "roost_archive";
local elements = module:require "roost_elements";
local rooms = module:require "roost_portable_rooms";
local uploads = module:require "roost_uploads";
local users = module:require "roost_user";

local host = module:get_option_string("roost_host");
local muc_host = module:get_option_string("roost_muc_host");
local probe = module:get_option_string("roost_probe_account");

local function checked(name)
	if type(name) ~= "string" or name == "" or nodeprep(name, true) ~= name then
		refuse("Prosody would change or refuse the name " .. tostring(name), "invalid");
	end
	return name;
end

-- Not usermanager.user_exists: that takes a session for an account.
local function existing(username)
	if not usermanager.get_provider(host).user_exists(checked(username)) then
		refuse("there is no account " .. username);
	end
	return username;
end

-- Roost's own account and the rooms of its checks are nobody's to bring along.
local function importable(name)
	if name == probe or elements.is_check(name) then refuse("the name " .. name .. " is Roost's"); end
	return checked(name);
end

local function page_of(arguments)
	return tostring(arguments.after or ""), math.max(1, math.min(tonumber(arguments.limit) or 500, 5000));
end

local function place_of(arguments)
	if arguments.room then
		local name = checked(arguments.room);
		if not rooms.exists(name) then refuse("there is no room " .. name); end
		return { name = name, host = muc_host, store = "muc_log", jid = name .. "@" .. muc_host, is_room = true };
	end
	local name = existing(arguments.owner);
	return { name = name, host = host, store = "archive", jid = name .. "@" .. host };
end

-- A stanza on the admin socket has a megabyte at most: what is longer comes in pieces before the call that wants it.
local transfers, max_bytes, max_age_s = {}, 64 * 1024 * 1024, 120;

local function xml_of(arguments)
	if not arguments.transfer then return tostring(arguments.xml); end
	local transfer = transfers[arguments.transfer];
	transfers[arguments.transfer] = nil;
	if not transfer then refuse("the pieces of " .. arguments.transfer .. " are not there any more"); end
	return table.concat(transfer);
end

-- By default Prosody begins to collect garbage again as soon as there is a twentieth more; nine tenths of a page's time
-- went there. While pages are made, it waits for half as much again.
local busy, usual_pause = 0, nil;

local function with_less_collecting(callable)
	return function (arguments)
		if busy == 0 then usual_pause = collectgarbage("setpause", 150); end
		busy = busy + 1;
		local ok, value = pcall(callable, arguments);
		busy = busy - 1;
		if busy == 0 then collectgarbage("setpause", usual_pause); end
		if not ok then error(value, 0); end
		return value;
	end;
end

local functions = {
	import_piece = function (arguments)
		local now, bytes = os.time(), 0;
		for name, transfer in pairs(transfers) do
			if os.difftime(now, transfer.since) > max_age_s then
				transfers[name] = nil;
			else
				bytes = bytes + transfer.bytes;
			end
		end
		local transfer = transfers[arguments.transfer] or { since = now, bytes = 0 };
		local piece = arguments.payload or "";
		if bytes + #piece > max_bytes then refuse("too much at a time"); end
		table.insert(transfer, piece);
		transfer.since, transfer.bytes = now, transfer.bytes + #piece;
		transfers[arguments.transfer] = transfer;
		return true;
	end;

	export_accounts = function (arguments)
		local names = {};
		for username in usermanager.users(host) do
			if username ~= probe then table.insert(names, username); end
		end
		return elements.page(names, page_of(arguments));
	end;

	export_user = function (arguments)
		return users.export(existing(arguments.username));
	end;

	import_user = function (arguments)
		local user = elements.read(xml_of(arguments), "user", "urn:xmpp:pie:0");
		return users.import(user, importable(user.attr.name), arguments.replace);
	end;

	export_archive = function (arguments)
		local _, limit = page_of(arguments);
		return archives.export(place_of(arguments), tostring(arguments.cursor or ""), limit);
	end;

	import_archive = function (arguments)
		return archives.import(place_of(arguments), arguments.transfer and xml_of(arguments) or arguments.payload or "");
	end;

	export_rooms = function (arguments)
		return elements.page(rooms.names(), page_of(arguments));
	end;

	export_room = function (arguments)
		return rooms.export(checked(arguments.room));
	end;

	import_room = function (arguments)
		local room = elements.read(xml_of(arguments), "room", elements.ours);
		return rooms.import(importable(room.attr.name), room, arguments.replace);
	end;

	export_uploads = function (arguments)
		return uploads.export(page_of(arguments));
	end;

	import_uploads = function (arguments)
		return uploads.import(arguments.uploads);
	end;
};

for name, callable in pairs(functions) do functions[name] = with_less_collecting(callable); end

return functions;
