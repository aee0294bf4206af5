-- PEP nodes of a user as portable elements (XEP-0227 1.1 section 4.10, XEP-0060), for roost_portable.
-- They are written through mod_pep, which keeps them in memory too, but nobody is notified of what is restored.

local jid = require "util.jid";
local st = require "util.stanza";
local elements = module:require "roost_elements";
local node_config_form = module:require "pubsub".node_config_form;

local host = module:get_option_string("roost_host");
local xmlns_pubsub, xmlns_owner = "http://jabber.org/protocol/pubsub", "http://jabber.org/protocol/pubsub#owner";
local form_type = "http://jabber.org/protocol/pubsub#node_config";

-- What mod_pep has where a node says nothing.
local defaults = { max_items = 1, persist_items = true, access_model = "presence", publish_model = "publishers",
	send_last_published_item = "on_sub_and_presence", notification_type = "headline" };
local access_models = { open = true, presence = true, whitelist = true };

local pep = {};

local function text_of(field, value)
	if value == nil then value = defaults[field.name]; end
	if value == nil then value = field.value; end
	if field.type == "boolean" then return value and "1" or "0"; end
	return value ~= nil and tostring(value) or "";
end

local function configure(node, config)
	local form, kept = elements.form(form_type), config.roost_kept or {};
	for _, field in ipairs(node_config_form) do
		if field.name then
			local var, text = field.var or field.name, text_of(field, config[field.name]);
			-- In place of an access model that mod_pep does not have, as long as nobody has chosen another since.
			if kept[var] and text == "whitelist" then text = kept[var][1]; end
			elements.field(form, var, { text });
		end
	end
	for _, var in ipairs(elements.sorted_keys(kept)) do
		if var ~= "pubsub#access_model" then elements.field(form, var, kept[var]); end
	end
	return st.stanza("configure", { node = node }):add_child(form);
end

-- That the user owns what is theirs goes without saying.
local function add_affiliations(owner, node, data, user_jid)
	local affiliations = st.stanza("affiliations", { node = node });
	for _, who in ipairs(elements.sorted_keys(data.affiliations)) do
		if who ~= user_jid then
			affiliations:tag("affiliation", { jid = who, affiliation = data.affiliations[who] }):up();
		end
	end
	if affiliations.tags[1] then owner:add_child(affiliations); end
	local subscriptions = st.stanza("subscriptions", { node = node });
	for _, who in ipairs(elements.sorted_keys(data.subscribers)) do
		subscriptions:tag("subscription", { jid = who, subscription = "subscribed" }):up();
	end
	if subscriptions.tags[1] then owner:add_child(subscriptions); end
end

local function items_of(username, node)
	local items = st.stanza("items", { node = node });
	local found = module:context(host):open_store("pep_" .. node, "archive"):find(username);
	for id, payload, _, publisher in found or function () end do
		if publisher == username .. "@" .. host then publisher = nil; end
		items:add_child(st.stanza("item", { id = id, publisher = publisher }):add_child(payload));
	end
	return items;
end

-- Adds <pubsub/> elements to the user's. without: names of nodes that were made of something else in it.
function pep.export(user, username, without)
	local owner, items = st.stanza("pubsub", { xmlns = xmlns_owner }), st.stanza("pubsub", { xmlns = xmlns_pubsub });
	local nodes = module:context(host):open_store("pep"):get(username) or {};
	for _, node in ipairs(elements.sorted_keys(nodes)) do
		if not without[node] then
			local data = nodes[node] == true and { config = {} } or nodes[node];
			owner:add_child(configure(node, data.config or {}));
			add_affiliations(owner, node, data, username .. "@" .. host);
			local of_node = items_of(username, node);
			if of_node.tags[1] then items:add_child(of_node); end
		end
	end
	if owner.tags[1] then user:add_child(owner); end
	if items.tags[1] then user:add_child(items); end
end

local function config_of(node, form, report)
	local config, errors = node_config_form:data(form);
	local kept, ours = {}, {};
	for _, field in ipairs(node_config_form) do ours[field.var or field.name] = true; end
	for field in form:childtags("field") do
		local var = field.attr.var;
		if var and not ours[var] then kept[var] = elements.values(field); end
	end
	for name, why in pairs(errors or {}) do
		config[name] = nil;
		report:refuse("node " .. node .. ", " .. name, why);
	end
	if config.access_model and not access_models[config.access_model] then
		report:refuse("node " .. node, "Prosody has no access model " .. config.access_model .. " here: nobody but "
			.. "the owner has access");
		kept["pubsub#access_model"] = { config.access_model };
		config.access_model = "whitelist";
	end
	config.FORM_TYPE = nil;
	if next(kept) then config.roost_kept = kept; end
	return config;
end

local function wanted_nodes(user, user_jid, report)
	local nodes = {};
	local function node_of(element)
		local name = element.attr.node;
		if not name or name == "" then return nil; end
		nodes[name] = nodes[name] or { affiliations = {}, subscribers = {}, items = {} };
		return nodes[name];
	end
	local owner = user:get_child("pubsub", xmlns_owner);
	for element in owner and owner:childtags() or function () end do
		local node, form = node_of(element), element:get_child("x", "jabber:x:data");
		if node and element.name == "configure" and form then
			node.config = config_of(element.attr.node, form, report);
		end
		for child in node and element:childtags() or function () end do
			local who = jid.prep(child.attr.jid);
			if who and who ~= user_jid and child.name == "affiliation" then node.affiliations[who] = child.attr.affiliation; end
			if who and child.name == "subscription" then node.subscribers[who] = true; end
		end
	end
	local all_items = user:get_child("pubsub", xmlns_pubsub);
	for element in all_items and all_items:childtags("items") or function () end do
		local node = node_of(element);
		for item in node and element:childtags("item") or function () end do table.insert(node.items, item); end
	end
	return nodes;
end

-- mod_pep refuses to clients what a node of another server may well have: more items than its own limit.
local function unchecked(service, callable)
	local check = rawget(service.config, "check_node_config");
	service.config.check_node_config = function () return true; end;
	local ok, why = callable();
	service.config.check_node_config = check;
	must(ok, why);
end

-- As configure() says it, so that what is said and what goes without saying is alike.
local function config_alike(one, other)
	return elements.alike(configure("", one), configure("", other));
end

local function write_config(service, name, node, report, replace)
	local there, config = service.nodes[name], node.config or {};
	if not there then
		report:judge(false);
		unchecked(service, function () return service:create(name, true, config); end);
		there = service.nodes[name];
	elseif node.config and report:judge(true, config_alike(there.config, config), replace) then
		unchecked(service, function () return service:set_node_config(name, true, config); end);
	end
	local changed = false;
	for _, list in ipairs({ "affiliations", "subscribers" }) do
		for who, value in pairs(node[list]) do
			local old = there[list][who];
			if report:judge(old ~= nil, old == value or list == "subscribers", replace) then
				there[list][who], changed = value, true;
			end
		end
	end
	if changed then
		must(service.config.nodestore:set(name, { name = name, config = there.config,
			subscribers = there.subscribers, affiliations = there.affiliations }));
	end
end

local function write_items(service, name, node, report, replace, owner)
	local data = service.data[name];
	if not data then
		if node.items[1] then report:refuse("items of node " .. name, "the node keeps none"); end
		return;
	end
	local stored, count = {}, 0;
	for id, item in data:items() do stored[id], count = item, count + 1; end
	local room = tonumber(service.nodes[name].config.max_items) or service.config.max_items or 256;
	for _, item in ipairs(node.items) do
		local id, payload = item.attr.id, item.tags[1];
		if not id or not payload or item.tags[2] then
			report:refuse("item " .. tostring(id) .. " of node " .. name, "it has no id or not one payload");
		else
			local old = stored[id];
			-- A full node would lose one of its own for it.
			if not replace and not old and count >= room then
				report.skipped = report.skipped + 1;
			elseif report:judge(old ~= nil, old and elements.alike(old.tags[1], payload), replace) then
				if not old then count = count + 1; end
				must(data:set(id, st.stanza("item", { xmlns = xmlns_pubsub, id = id,
					publisher = item.attr.publisher or owner }):add_child(payload)));
			end
		end
	end
end

function pep.import(user, username, report, replace)
	local service = prosody.hosts[host].modules.pep.get_pep_service(username);
	local nodes = wanted_nodes(user, username .. "@" .. host, report);
	for _, name in ipairs(elements.sorted_keys(nodes)) do
		write_config(service, name, nodes[name], report, replace);
		write_items(service, name, nodes[name], report, replace, username .. "@" .. host);
	end
end

return pep;
