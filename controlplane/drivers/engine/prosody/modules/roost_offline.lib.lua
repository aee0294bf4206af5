-- Messages that wait for a user (XEP-0160) as portable elements (XEP-0227), for roost_portable. They are written as
-- the file of mod_storage_internal that they are: it would not keep fractions of a second, and time tells them apart.

local datamanager = require "core.storagemanager".olddm;
local datetime = require "util.datetime";
local new_id = require "util.id".medium;
local st = require "util.stanza";
local elements = module:require "roost_elements";

local host = module:get_option_string("roost_host");

local offline = {};

-- As mod_storage_internal has them: each message with the time of its arrival, in whole seconds, and if that was told
-- more precisely, the text of it.
local function offline_of(username)
	local found = {};
	for i, item in ipairs(datamanager.list_load(username, host, "offline") or {}) do
		local when = item.when or datetime.parse(item.attr.stamp);
		item.attr.stamp, item.attr.stamp_legacy = nil, nil;
		found[i] = { message = st.deserialize(item), stamp = item.roost_stamp or datetime.datetime(when) };
	end
	return found;
end

function offline.export(user, username)
	local messages = st.stanza("offline-messages");
	for _, found in ipairs(offline_of(username)) do
		found.message.attr.xmlns = elements.client;
		found.message:tag("delay", { xmlns = "urn:xmpp:delay", from = host, stamp = found.stamp }):up();
		messages:add_child(found.message);
	end
	if messages.tags[1] then user:add_child(messages); end
end

-- The message without the time that the server itself added, and that time.
local function undelayed(message)
	local stamp;
	message:maptags(function (tag)
		if tag.name ~= "delay" or tag.attr.xmlns ~= "urn:xmpp:delay" then return tag; end
		local own = tag.attr.from == nil or tag.attr.from == host;
		if own or not stamp then stamp = tag.attr.stamp or stamp; end
		return not own and tag or nil;
	end);
	return elements.as_stanza(message), stamp;
end

function offline.import(user, username, report)
	local messages = user:get_child("offline-messages");
	local there = {};
	if not messages then return; end
	for _, found in ipairs(offline_of(username)) do
		there[found.stamp .. elements.canonical(found.message)] = true;
	end
	for element in messages:childtags("message", elements.client) do
		local message, said = undelayed(st.clone(element));
		local when, stamp = elements.time(said);
		when = when or os.time();
		if report:judge(there[(stamp or datetime.datetime(when)) .. elements.canonical(message)], true) then
			local item = st.preserialize(message);
			item.key, item.when, item.with, item.roost_stamp = new_id(), when, "", stamp;
			item.attr.stamp = datetime.datetime(when);
			must(datamanager.list_append(username, host, "offline", item));
		end
	end
end

return offline;
