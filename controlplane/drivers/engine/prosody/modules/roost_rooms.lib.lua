-- Rooms of the instance's MUC component, for mod_roost_control.

local array = require "util.array";
local jid = require "util.jid";
local nodeprep = require "util.encodings".stringprep.nodeprep;
local st = require "util.stanza";
local database = module:require "roost_database";
local settings_of = module:require "roost_settings";

local muc_host = module:get_option_string("roost_muc_host");

local function muc()
	return prosody.hosts[muc_host].modules.muc;
end

local function jid_of(arguments)
	local name = arguments.room;
	if type(name) ~= "string" or name == "" or nodeprep(name, true) ~= name then
		refuse("Prosody would change or refuse the name " .. tostring(name), "invalid");
	end
	return name .. "@" .. muc_host;
end

local function find(arguments)
	local room = muc().get_room_from_jid(jid_of(arguments));
	return room and not room._data.destroyed and room or nil;
end

local function existing(arguments)
	return find(arguments) or refuse("there is no room " .. arguments.room);
end

local function apply(room, settings)
	room:set_name(settings.title ~= "" and settings.title or nil);
	room:set_description(settings.description ~= "" and settings.description or nil);
	room:set_members_only(settings.access == "members");
	room:set_moderated(settings.moderated);
	room:set_whois(settings.anonymity == "none" and "anyone" or "moderators");
	room:set_public(settings.listed);
	room:set_persistent(settings.persistent);
	room:set_language(settings.language);
	room._data.archiving = settings.archived;
end

-- XEP-0045 10.2.1: occupants are told of a change, and who is no member leaves a room that became members-only.
local function tell_occupants(room)
	local notice = st.message({ type = "groupchat", from = room.jid })
		:tag("x", { xmlns = "http://jabber.org/protocol/muc#user" }):tag("status", { code = "104" });
	room:broadcast_message(notice:reset());
	if not room:get_members_only() then return; end
	local strangers = {};
	for nick, occupant in room:each_occupant() do
		local affiliation = room:get_affiliation(occupant.bare_jid);
		if not affiliation or affiliation == "none" then table.insert(strangers, nick); end
	end
	for _, nick in ipairs(strangers) do
		room:set_role(true, nick, nil, "The room is for members only now");
	end
end

local function occupants(room)
	local count = 0;
	for _ in room:each_occupant() do count = count + 1; end
	return count;
end

local function describe(room_jid, data, count)
	return {
		room = jid.node(room_jid);
		settings = settings_of(data);
		occupants = count;
		subject = data.subject or "";
	};
end

return {
	list_rooms = function ()
		local rooms, live = array(), {};
		for room in muc().live_rooms() do
			live[room.jid] = true;
			if not room._data.destroyed then
				rooms:push(describe(room.jid, room._data, occupants(room)));
			end
		end
		-- The others are read from disk without being restored: that would push living rooms out of the cache.
		local context = module:context(muc_host);
		local configs = context:open_store("config");
		for room_jid in pairs(context:open_store("persistent"):get(nil) or {}) do
			if not live[room_jid] then
				local stored = configs:get((jid.node(room_jid)));
				if stored and stored._data and not stored._data.destroyed then
					rooms:push(describe(room_jid, stored._data, 0));
				end
			end
		end
		return rooms;
	end;

	get_room = function (arguments)
		local room = find(arguments);
		if not room then return false; end
		local found = describe(room.jid, room._data, occupants(room));
		found.affiliations = array();
		for member, affiliation in room:each_affiliation() do
			found.affiliations:push({ jid = member; affiliation = affiliation });
		end
		return found;
	end;

	create_room = function (arguments)
		local room_jid = jid_of(arguments);
		if find(arguments) then return false; end
		local room = must(muc().create_room(room_jid, {}));
		apply(room, arguments.settings);
		must(room:set_affiliation(true, arguments.owner, "owner"));
		must(room:save(true));
		return true;
	end;

	set_room_settings = function (arguments)
		local room = existing(arguments);
		apply(room, arguments.settings);
		must(room:save(true));
		tell_occupants(room);
		return true;
	end;

	set_affiliation = function (arguments)
		local room = existing(arguments);
		must(room:set_affiliation(true, arguments.jid, arguments.affiliation));
		must(room:save(true));
		return true;
	end;

	delete_room = function (arguments)
		local room = find(arguments);
		if not room then return false; end
		room:destroy(nil, "The room was deleted");
		database.forget();
		return true;
	end;
}
