-- The form of XEP-0157 (contact addresses) and, where the tenant wants it, XEP-0485 (which servers it talks with).
-- Both belong into one form (XEP-0485 §8.2), which Prosody's own mod_server_contact_info cannot share. The node is
-- on the domain itself: a service of its own would want a name in DNS and in the certificate.

local array = require "util.array";
local dataforms = require "util.dataforms";
local jid_bare = require "util.jid".bare;
local new_id = require "util.id".medium;
local promise = require "util.promise";
local pubsub = require "util.pubsub";
local st = require "util.stanza";
local time = require "util.time";

local xmlns, xmlns_pubsub = "urn:xmpp:serverinfo:0", "http://jabber.org/protocol/pubsub";
local xmlns_disco = "http://jabber.org/protocol/disco#info";
local NODE, ITEM = "serverinfo", "current";
-- A peer's wish is asked for again after so many rounds; more than MOST_ASKED wait for the next.
local ROUNDS, MOST_ASKED, ANSWER_S, MOST_SUBSCRIBERS = 10, 100, 10, 1000;

local wanted = module:get_option_boolean("roost_publish_links", false);
local every_s = module:get_option_number("roost_publish_links_every", 180);

local contacts = module:get_option("contact_info", {});
local layout = { { name = "FORM_TYPE", var = "FORM_TYPE", type = "hidden", value = "http://jabber.org/network/serverinfo" } };
local values = { node = ("xmpp:%s?;node=%s"):format(module.host, NODE) };
for _, kind in ipairs({ "abuse", "admin", "feedback", "sales", "security", "status", "support" }) do
	if contacts[kind] then
		table.insert(layout, { name = kind, var = kind .. "-addresses", type = "list-multi" });
		values[kind] = contacts[kind];
	end
end
if wanted then table.insert(layout, { name = "node", var = "serverinfo-pubsub-node", type = "text-single" }); end
module:add_extension(dataforms.new(layout):form(values, "result"));

if not wanted then return; end

local lib_pubsub = module:require "pubsub";
module:depends("disco");
module:add_feature(xmlns);
module:add_identity("pubsub", "service", "Server information");
for _, feature in ipairs({ "", "#access-open", "#retrieve-items", "#subscribe" }) do
	module:add_feature(xmlns_pubsub .. feature);
end

local function tell(kind, node, jids, item)
	local event = st.message({ from = module.host, type = "headline" })
		:tag("event", { xmlns = xmlns_pubsub .. "#event" }):tag(kind, { node = node });
	if item then
		item = st.clone(item);
		item.attr.xmlns = nil;
		event:add_child(item);
	end
	for jid in pairs(jids) do
		local message = st.clone(event);
		message.attr.to, message.attr.id = jid, new_id();
		module:send(message);
	end
end

local service; -- what is not said here nobody may: there is no owner but this module
service = pubsub.new({
	nodestore = module:open_store("roost_serverinfo"); -- subscribers; items are made anew
	broadcaster = tell;
	normalize_jid = jid_bare;
	jid = module.host;
	get_affiliation = function (_, node, action)
		if action ~= "subscribe" then return nil; end
		local count, found = 0, service.nodes[node];
		for _ in pairs(found and found.subscribers or {}) do count = count + 1; end
		if count >= MOST_SUBSCRIBERS then return "outcast"; end
	end;
});
if not service.nodes[NODE] then
	service:create(NODE, true, { max_items = 1, access_model = "open", payload_type = xmlns, title = "Server information" });
end

module:hook("iq/host/" .. xmlns_pubsub .. ":pubsub", function (event)
	return lib_pubsub.handle_pubsub_iq(event, service);
end);
module:hook("host-disco-info-node", function (event)
	if event.node == NODE then return lib_pubsub.handle_disco_info_node(event, service); end
end);
module:hook("host-disco-items-node", function (event)
	if event.node == NODE then return lib_pubsub.handle_disco_items_node(event, service); end
end);
module:hook("host-disco-items", function (event)
	event.reply:tag("item", { jid = module.host, node = NODE, name = "Server information" }):up();
end);

-- remote domain -> the directions of the streams that this domain itself has with it.
local function links()
	local found = {};
	for _, session in pairs(module:shared("/*/s2s/sessions")) do
		local own, peer, direction = session.to_host, session.from_host, "incoming";
		if session.type == "s2sout" then own, peer, direction = peer, own, "outgoing"; end
		if (session.type == "s2sin" or session.type == "s2sout") and own == module.host and peer then
			found[peer] = found[peer] or array();
			found[peer]:push(direction);
		end
	end
	return found;
end

local answers = {}; -- remote domain -> { at = seconds, named = whether it wants to be named }

local function ask(peer)
	local answer = { at = time.now(), named = false };
	answers[peer] = answer;
	local iq = st.iq({ type = "get", from = module.host, to = peer, id = new_id() }):tag("query", { xmlns = xmlns_disco });
	return module:send_iq(iq, nil, ANSWER_S):next(function (event)
		local query = event.stanza:get_child("query", xmlns_disco);
		for feature in (query or iq):childtags("feature") do
			if feature.attr.var == xmlns then answer.named = true; end
		end
	end);
end

-- In an order that tells nothing of those without a name: the others first, these by their streams alone.
local function entries()
	local found = array();
	for peer, directions in pairs(links()) do
		local named = answers[peer] and answers[peer].named;
		directions:sort();
		found:push({ name = named and peer or nil, directions = directions,
			key = (named and "0 " .. peer or "1 ") .. directions:concat(" ") });
	end
	return found:sort(function (one, other) return one.key < other.key; end);
end

local published;

local function publish()
	local item = st.stanza("item", { xmlns = xmlns_pubsub, id = ITEM })
		:tag("serverinfo", { xmlns = xmlns }):tag("domain", { name = module.host }):tag("federation");
	for _, entry in ipairs(entries()) do
		item:tag("remote-domain", { name = entry.name });
		for _, direction in ipairs(entry.directions) do
			item:tag("connection", { type = direction }):up();
		end
		item:up();
	end
	item:reset();
	if tostring(item) ~= published then
		local ok, err = service:publish(NODE, true, ITEM, item);
		if ok then
			published = tostring(item);
		else
			module:log("warn", "The server information was not published: %s", err);
		end
	end
end

local function refresh()
	local found, asked = links(), {};
	for peer in pairs(answers) do
		if not found[peer] then answers[peer] = nil; end
	end
	for peer in pairs(found) do
		local answer = answers[peer];
		if #asked < MOST_ASKED and (not answer or time.now() - answer.at >= ROUNDS * every_s) then
			table.insert(asked, ask(peer));
		end
	end
	promise.all_settled(asked):next(publish):catch(function (err)
		module:log("error", "The server information was not gathered: %s", err);
	end);
end

publish();
module:add_timer(1, function ()
	refresh();
	return every_s;
end);
