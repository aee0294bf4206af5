-- A room as one portable element and back, for roost_portable: settings, subject, affiliations, hats.
-- A room that nobody has in memory is read without being restored: that would push living ones out of the cache.

local datamanager = require "core.storagemanager".olddm;
local datetime = require "util.datetime";
local jid = require "util.jid";
local lfs = require "lfs";
local st = require "util.stanza";
local elements = module:require "roost_elements";

local muc_host = module:get_option_string("roost_muc_host");
local form_type = "http://jabber.org/protocol/muc#roomconfig";

-- Prosody's names of fields that have a better known one.
local well_known = {
	["{http://prosody.im/protocol/muc}roomconfig_allowmemberinvites"] = "muc#roomconfig_allowinvites";
};
local prosodys = {};
for ours, common in pairs(well_known) do prosodys[common] = ours; end

local rooms = {};

local function muc()
	return prosody.hosts[muc_host].modules.muc;
end

local function is_kept(data)
	return data and data.persistent and not data.destroyed;
end

-- The room itself if it is in memory, else one that is made of what is on disk and that nobody knows of.
local function look_at(name)
	local room_jid = name .. "@" .. muc_host;
	for room in muc().live_rooms() do
		if room.jid == room_jid then return room, true; end
	end
	local stored = module:context(muc_host):open_store("config"):get(name);
	if not stored or not stored._data then return nil; end
	local room = muc().new_room(room_jid, stored._data);
	room._affiliation_data = stored._affiliation_data or {};
	if stored.jid and stored._affiliations then
		room._affiliations = stored._affiliations; -- an older format
		return room, false;
	end
	for who, affiliation in pairs(stored) do
		local _, domain, resource = jid.split(who);
		if domain and domain:sub(1, 1) ~= "_" and not resource and type(affiliation) == "string" then
			room._affiliations[who] = affiliation;
		end
	end
	return room, false;
end

function rooms.names()
	local names, seen = {}, {};
	local function add(room_jid)
		local name = jid.node(room_jid);
		if name and not seen[name] and not elements.is_check(name) then table.insert(names, name); end
		seen[name or ""] = true;
	end
	for room in muc().live_rooms() do
		if is_kept(room._data) then add(room.jid); end
		seen[jid.node(room.jid) or ""] = true;
	end
	for room_jid in pairs(module:context(muc_host):open_store("persistent"):get(nil) or {}) do
		-- A room is listed before it is written: one that Prosody was killed at has nothing but its name.
		local name = jid.node(room_jid);
		if name and lfs.attributes(datamanager.getpath(name, muc_host, "config"), "mode") then add(room_jid); end
	end
	return names;
end

function rooms.exists(name)
	local room = look_at(name);
	return room and not room._data.destroyed;
end

local function default_of(field)
	local defaults = {};
	for _, option in ipairs(field.options or {}) do
		if type(option) == "table" and option.default then table.insert(defaults, option.value); end
	end
	return defaults;
end

-- Of several values, none comes first.
local function in_order(values)
	local copy = { table.unpack(values) };
	table.sort(copy);
	return copy;
end

local booleans = { ["true"] = "1", ["false"] = "0" };

local function wanted_values(tag, field)
	local values = elements.values(tag);
	if field and field.type == "boolean" then return { booleans[values[1]] or values[1] }; end
	return field and field.type == "list-multi" and in_order(values) or values;
end

local function values_of(field)
	local value = field.value;
	if field.type == "boolean" then return { value and "1" or "0" }; end
	if value == nil and field.options then return default_of(field); end
	if type(value) == "table" then return in_order(value); end
	return { value ~= nil and (math.type(value) == "float" and string.format("%d", value) or tostring(value)) or "" };
end

local function is_setting(field)
	local name = field.var or field.name;
	return name and field.type ~= "fixed" and field.type ~= "hidden" and name:find("roomconfig", 1, true) and name;
end

local function settings_of(room)
	local form = elements.form(form_type);
	for _, field in ipairs(room:get_form_layout(true)) do
		local name = is_setting(field);
		if name then elements.field(form, well_known[name] or name, values_of(field)); end
	end
	local kept = room._data.roost_kept or {};
	for _, name in ipairs(elements.sorted_keys(kept)) do elements.field(form, name, kept[name]); end
	return form;
end

local function add_affiliations(element, room)
	local list, hats = st.stanza("affiliations"), st.stanza("hats");
	for _, who in ipairs(elements.sorted_keys(room._affiliations)) do
		local data = room._affiliation_data[who] or {};
		if room._affiliations[who] ~= "none" then
			list:tag("item", { jid = who, affiliation = room._affiliations[who], nick = data.reserved_nickname,
				role = data.roost_role });
			if data.roost_reason then list:text_tag("reason", data.roost_reason); end
			list:up();
			for _, uri in ipairs(elements.sorted_keys(data.hats)) do
				if data.hats[uri].active then
					hats:tag("hat", { jid = who, uri = uri, title = data.hats[uri].title }):up();
				end
			end
		end
	end
	element:add_child(list);
	if hats.tags[1] then element:add_child(hats); end
end

function rooms.export(name)
	local room = look_at(name);
	if not room or not is_kept(room._data) then refuse("there is no room " .. name .. " that is kept"); end
	local data = room._data;
	local element = st.stanza("room", { xmlns = elements.ours, name = name }):add_child(settings_of(room));
	if data.subject then
		element:tag("subject", { by = data.subject_from,
			stamp = data.subject_time and datetime.datetime(data.subject_time) }):text(data.subject):up();
	end
	add_affiliations(element, room);
	if data.occupant_id_salt then element:tag("occupant-ids", { salt = data.occupant_id_salt }):up(); end
	return tostring(element);
end

-- Import ------------------------------------------------------------------------------------------------------------

local function import_settings(room, element, report, is_new, replace)
	local form = element:get_child("x", "jabber:x:data");
	if not form then return; end
	local layout, known, kept = room:get_form_layout(true), {}, room._data.roost_kept or {};
	for _, field in ipairs(layout) do
		local name = is_setting(field);
		if name then known[name] = field; end
	end
	for tag in form:childtags("field") do tag.attr.var = prosodys[tag.attr.var] or tag.attr.var; end
	local fields, errors = layout:data(form);
	local event = { room = room, fields = fields, status_codes = {}, actor = true,
		origin = { send = function () end }, stanza = st.iq({ type = "set", id = "roost" }) };
	for tag in form:childtags("field") do
		local name, field = tag.attr.var, known[tag.attr.var];
		local values, old = wanted_values(tag, field), field and values_of(field) or kept[name];
		if not name or name == "FORM_TYPE" then -- luacheck: ignore 542
		elseif errors and errors[name] then
			report:refuse("setting " .. name .. " of room " .. room.jid, tostring(errors[name]));
		elseif name == "muc#roomconfig_persistentroom" and values[1] == "0" then
			report:refuse("setting " .. name .. " of room " .. room.jid, "a room that is not kept could not be restored");
		elseif report:judge(old ~= nil and not is_new, old and elements.same(old, values), replace) then
			if field then
				event.field, event.value = name, fields[name];
				module:context(muc_host):fire_event("muc-config-submitted/" .. name, event);
			else
				kept[name] = values;
			end
		end
	end
	if next(kept) then room._data.roost_kept = kept; end
end

local function import_subject(room, element, report, replace)
	local subject = element:get_child("subject");
	local text = subject and subject:get_text() or "";
	local data = room._data;
	if text == "" or not report:judge(data.subject ~= nil, data.subject == text, replace) then return; end
	local by = jid.prep(subject.attr.by);
	room:set_subject(by and jid.bare(by) == room.jid and by or room.jid, text);
	data.subject_time = datetime.parse(subject.attr.stamp) or data.subject_time;
end

local function hats_by_jid(element)
	local hats, by_jid = element:get_child("hats"), {};
	for hat in hats and hats:childtags("hat") or function () end do
		local who = jid.bare(jid.prep(hat.attr.jid));
		if who and hat.attr.uri then
			by_jid[who] = by_jid[who] or {};
			by_jid[who][hat.attr.uri] = { active = true, title = hat.attr.title or "" };
		end
	end
	return by_jid;
end

local affiliations = { owner = true, admin = true, member = true, outcast = true };

local function import_affiliations(room, element, report, replace)
	local list, hats = element:get_child("affiliations"), hats_by_jid(element);
	for item in list and list:childtags("item") or function () end do
		local who, affiliation = jid.bare(jid.prep(item.attr.jid)), item.attr.affiliation;
		if not who or not affiliations[affiliation] then
			report:refuse("affiliation of " .. tostring(item.attr.jid) .. " in room " .. room.jid, "no JID or no affiliation");
		else
			local data = { reserved_nickname = item.attr.nick, roost_role = item.attr.role,
				roost_reason = item:get_child_text("reason"), hats = hats[who] };
			local old = room._affiliations[who];
			local is_alike = old == affiliation and elements.same(room._affiliation_data[who] or {}, data);
			if report:judge(old ~= nil and old ~= "none", is_alike, replace) then
				local ok, _, why = room:set_affiliation(true, who, affiliation, data.roost_reason, data);
				if not ok then report:refuse("affiliation of " .. who .. " in room " .. room.jid, tostring(why)); end
			end
		end
	end
end

local function import_into(room, element, is_new, replace)
	local report = elements.report();
	if is_new then report:judge(false); end
	import_settings(room, element, report, is_new, replace);
	import_subject(room, element, report, replace);
	import_affiliations(room, element, report, replace);
	local ids = element:get_child("occupant-ids");
	local salt, old = ids and ids.attr.salt, room._data.occupant_id_salt;
	if salt and report:judge(old ~= nil and not is_new, old == salt, replace) then
		room._data.occupant_id_salt = salt;
	end
	return report;
end

function rooms.import(name, element, replace)
	local existing, in_memory = look_at(name);
	local is_new = not existing or existing._data.destroyed;
	local room = not is_new and muc().get_room_from_jid(existing.jid)
		or must(muc().create_room(name .. "@" .. muc_host, { persistent = true }));
	-- It saves itself at each change; once is enough.
	local save = room.save;
	room.save = function () return true; end;
	local ok, report = pcall(import_into, room, element, is_new, replace);
	room.save = save;
	if ok or not is_new then must(room:save(true)); end
	if not in_memory and not room:has_occupant() then muc().forget_room(room); end
	if not ok then error(report, 0); end
	return report;
end

return rooms;
