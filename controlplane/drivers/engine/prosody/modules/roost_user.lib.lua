-- A user as one portable element (XEP-0227 1.1) and back, for roost_portable: credentials, contacts, private storage,
-- block list, archive preferences. PEP nodes, the vCard and offline messages have files of their own.

local base64 = require "util.encodings".base64;
local hex = require "util.hex";
local jid = require "util.jid";
local rostermanager = require "core.rostermanager";
local st = require "util.stanza";
local usermanager = require "core.usermanager";
local elements = module:require "roost_elements";
local offline = module:require "roost_offline";
local pep = module:require "roost_pep";
local vcard = module:require "roost_vcard";

local host = module:get_option_string("roost_host");
local native = "SCRAM-" .. module:context(host):get_option_string("password_hash", "SHA-1");
local xmlns_pie, xmlns_scram = "urn:xmpp:pie:0", "urn:xmpp:pie:0#scram";
local xmlns_blocking, xmlns_mam = "urn:xmpp:blocking", "urn:xmpp:mam:2";

local function store(name, kind)
	return module:context(host):open_store(name, kind);
end

local function disabling()
	return prosody.hosts[host].modules.roost_accounts;
end

-- Credentials -------------------------------------------------------------------------------------------------------

local function scram_element(account)
	return st.stanza("scram-credentials", { xmlns = xmlns_scram, mechanism = native })
		:text_tag("iter-count", string.format("%d", account.iteration_count))
		:text_tag("salt", base64.encode(account.salt))
		:text_tag("server-key", base64.encode(hex.decode(account.server_key)))
		:text_tag("stored-key", base64.encode(hex.decode(account.stored_key)));
end

local function export_credentials(user, username, account)
	if account.password then user.attr.password = account.password; end
	if account.stored_key then user:add_child(scram_element(account)); end
	-- Of other mechanisms, which came with an import; they are of no use any more when the password has changed.
	local others = store("roost_credentials"):get(username);
	if others and others.beside == account.stored_key then
		for _, element in ipairs(others) do user:add_child(st.deserialize(element)); end
	end
	if disabling().is_disabled(username) then
		user:tag("disabled", { xmlns = elements.ours }):up();
	end
end

local function decoded(element, name)
	local text = element:get_child_text(name);
	return text and base64.decode((text:gsub("%s", "")));
end

local function account_of(element)
	local salt, count = decoded(element, "salt"), tonumber(element:get_child_text("iter-count"));
	local server_key, stored_key = decoded(element, "server-key"), decoded(element, "stored-key");
	if not (salt and salt ~= "" and count and count >= 1 and count <= 10000000 and server_key and stored_key) then
		return nil;
	end
	return { salt = salt, iteration_count = math.floor(count), server_key = hex.encode(server_key),
		stored_key = hex.encode(stored_key) };
end

local function credentials_in(user, username, report)
	local account, others = nil, {};
	for element in user:childtags("scram-credentials", xmlns_scram) do
		local found = account_of(element);
		if not found then
			report:refuse("password of " .. username, "incomplete credentials " .. tostring(element.attr.mechanism));
		elseif element.attr.mechanism == native then
			account = found;
		else
			table.insert(others, st.preserialize(element));
		end
	end
	return account, others;
end

local function import_credentials(user, username, report, replace)
	local accounts = store("accounts");
	local there = accounts:get(username);
	local account, others = credentials_in(user, username, report);
	local is_alike = there and (not account or elements.same(there, account));
	if not report:judge(there ~= nil, is_alike, replace) then return; end
	if account then
		must(accounts:set(username, account));
	elseif user.attr.password then
		must(usermanager.create_user(username, user.attr.password, host));
		account = accounts:get(username);
	elseif not there then
		-- Nobody gets in, until a password is set.
		must(accounts:set(username, { created = os.time() }));
		local why = others[1] and "there is only " .. others[1].attr.mechanism .. ", and Prosody wants " .. native
			or "there is none";
		report:refuse("password of " .. username, why .. ": it has to be set anew");
	end
	others.beside = account and account.stored_key;
	must(store("roost_credentials"):set(username, others[1] and others or nil));
end

-- Contacts ----------------------------------------------------------------------------------------------------------

local function export_roster(user, username)
	local roster = store("roster"):get(username) or {};
	local query = st.stanza("query", { xmlns = "jabber:iq:roster" });
	for _, contact in ipairs(elements.sorted_keys(roster)) do
		local item = roster[contact];
		if contact ~= "pending" then
			query:tag("item", { jid = contact, name = item.name, subscription = item.subscription or "none",
				ask = item.ask, approved = item.approved and "true" or nil });
			for _, group in ipairs(elements.sorted_keys(item.groups)) do query:text_tag("group", group); end
			query:up();
		end
	end
	if query.tags[1] then user:add_child(query); end
	local requests = (roster[false] or {}).pending or roster.pending or {};
	for _, contact in ipairs(elements.sorted_keys(requests)) do
		local request = requests[contact];
		request = type(request) == "table" and st.deserialize(request) or st.presence({ type = "subscribe" });
		request.attr.xmlns, request.attr.from, request.attr.to = elements.client, contact, nil;
		user:add_child(request);
	end
end

local function contact_of(item)
	local contact = { name = item.attr.name, subscription = item.attr.subscription or "none", ask = item.attr.ask,
		approved = (item.attr.approved == "true" or item.attr.approved == "1") and "true" or nil, groups = {} };
	for group in item:childtags("group") do
		local name = group:get_text();
		if name ~= "" then contact.groups[name] = true; end
	end
	return contact;
end

local subscriptions = { none = true, to = true, from = true, both = true };

local function contact_parts(item)
	return { item.name or "", item.subscription or "none", item.ask or "", item.approved or "", item.groups or {} };
end

local function import_contacts(user, username, roster, report, replace)
	local changed, query = {}, user:get_child("query", "jabber:iq:roster");
	for item in query and query:childtags("item") or function () end do
		local who, contact = jid.prep(item.attr.jid), contact_of(item);
		if not who or not subscriptions[contact.subscription] or who == username .. "@" .. host then
			report:refuse("contact " .. tostring(item.attr.jid) .. " of " .. username, "no JID, or not one of a contact");
		else
			local old = roster[who];
			local is_alike = old and elements.same(contact_parts(old), contact_parts(contact));
			if report:judge(old ~= nil, is_alike, replace) then
				roster[who] = contact;
				table.insert(changed, who);
			end
		end
	end
	return changed;
end

local function import_roster(user, username, report, replace)
	local roster = rostermanager.load_roster(username, host);
	local changed, requests = import_contacts(user, username, roster, report, replace), 0;
	for request in user:childtags("presence", elements.client) do
		local who = jid.bare(jid.prep(request.attr.from));
		if who and request.attr.type == "subscribe" and report:judge(roster[false].pending[who] ~= nil, true) then
			request.attr.from, request.attr.to = who, username .. "@" .. host;
			roster[false].pending[who] = st.preserialize(elements.as_stanza(request));
			requests = requests + 1;
		end
	end
	if #changed + requests == 0 then return; end
	must(rostermanager.save_roster(username, host, roster), "the roster could not be saved");
	for _, who in ipairs(changed) do rostermanager.roster_push(username, host, who); end
end

-- Private storage, block list, preferences --------------------------------------------------------------------------

local function export_private(user, username)
	local stored = store("private"):get(username) or {};
	local query = st.stanza("query", { xmlns = "jabber:iq:private" });
	for _, key in ipairs(elements.sorted_keys(stored)) do query:add_child(st.deserialize(stored[key])); end
	if query.tags[1] then user:add_child(query); end
end

local function import_private(user, username, report, replace)
	local query, changed = user:get_child("query", "jabber:iq:private"), false;
	local stored = store("private"):get(username) or {};
	for _, element in ipairs(query and query.tags or {}) do
		local key = element.name .. ":" .. (element.attr.xmlns or "");
		local old = stored[key];
		if report:judge(old ~= nil, old and elements.alike(old, element), replace) then
			stored[key], changed = st.preserialize(element), true;
		end
	end
	if changed then must(store("private"):set(username, stored)); end
end

local function export_blocklist(user, username)
	local list = st.stanza("blocklist", { xmlns = xmlns_blocking });
	for _, who in ipairs(elements.sorted_keys(store("blocklist"):get(username))) do
		list:tag("item", { jid = who }):up();
	end
	if list.tags[1] then user:add_child(list); end
end

-- Through mod_blocklist, which keeps lists in memory; it wants the user to have sessions.
local function import_blocklist(user, username, report)
	local list, stored = user:get_child("blocklist", xmlns_blocking), store("blocklist"):get(username) or {};
	local command, failure = st.stanza("block", { xmlns = xmlns_blocking }), nil;
	for item in list and list:childtags("item") or function () end do
		local who = jid.prep(item.attr.jid);
		if not who then
			report:refuse("block of " .. tostring(item.attr.jid) .. " by " .. username, "no JID");
		elseif report:judge(stored[who] ~= nil, true) then
			command:tag("item", { jid = who }):up();
		end
	end
	if not command.tags[1] then return; end
	local sessions, own = prosody.hosts[host].sessions, username .. "@" .. host;
	local nobody = not sessions[username];
	if nobody then sessions[username] = { sessions = {} }; end
	local ok, why = pcall(prosody.hosts[host].events.fire_event, "iq-set/self/urn:xmpp:blocking:block", {
		origin = { username = username, host = host, type = "c2s", full_jid = own, log = module._log,
			send = function (reply) if reply.attr.type == "error" then failure = tostring(reply); end end };
		stanza = st.iq({ type = "set", id = "roost", from = own }):add_child(command);
	});
	if nobody then sessions[username] = nil; end
	must(ok and not failure, why or failure);
end

local policies = { [true] = "always", [false] = "never", roster = "roster", always = true, never = false };

local function export_preferences(user, username)
	local stored = store("archive_prefs"):get(username);
	if not stored then return; end
	local default = stored[false];
	if default == nil then default = true; end
	local always, never = st.stanza("always"), st.stanza("never");
	for _, who in ipairs(elements.sorted_keys(stored)) do
		(stored[who] and always or never):text_tag("jid", who);
	end
	user:add_child(st.stanza("prefs", { xmlns = xmlns_mam, default = policies[default] })
		:add_child(always):add_child(never));
end

local function import_preferences(user, username, report, replace)
	local prefs = user:get_child("prefs", xmlns_mam);
	if not prefs then return; end
	local wanted, old = { [false] = policies[prefs.attr.default] }, store("archive_prefs"):get(username);
	if prefs.attr.default == "roster" then wanted[false] = "roster"; end
	for name, value in pairs({ always = true, never = false }) do
		local list = prefs:get_child(name);
		for element in list and list:childtags("jid") or function () end do
			local who = jid.prep(element:get_text());
			if who then wanted[who] = value; end
		end
	end
	if report:judge(old ~= nil, old and elements.same(old, wanted), replace) then
		must(store("archive_prefs"):set(username, wanted));
		local user_sessions = prosody.hosts[host].sessions[username];
		if user_sessions then user_sessions.archive_prefs = wanted; end
	end
end

local users = {};

function users.export(username)
	local account = store("accounts"):get(username);
	local user = st.stanza("user", { xmlns = xmlns_pie, name = username });
	export_credentials(user, username, account);
	export_roster(user, username);
	local made_of_vcard = vcard.export(user, username);
	export_private(user, username);
	pep.export(user, username, made_of_vcard);
	export_blocklist(user, username);
	export_preferences(user, username);
	offline.export(user, username);
	local kept = store("roost_kept"):get(username);
	for _, name in ipairs(elements.sorted_keys(kept)) do user:add_child(st.deserialize(kept[name])); end
	return tostring(user);
end

-- What else is in the element is nothing to Prosody: it is kept beside, handed out again, and told in the report.
local carried = { ["scram-credentials"] = true, query = true, presence = true, vCard = true, pubsub = true,
	blocklist = true, prefs = true, ["offline-messages"] = true, disabled = true, archive = true };

function users.import(user, username, replace)
	local report = elements.report();
	import_credentials(user, username, report, replace);
	if user:get_child("disabled", elements.ours)
		and report:judge(disabling().is_disabled(username), true) then
		must(disabling().set_enabled(username, false));
	end
	import_roster(user, username, report, replace);
	import_private(user, username, report, replace);
	pep.import(user, username, report, replace);
	vcard.import(user, username, report, replace);
	import_blocklist(user, username, report);
	import_preferences(user, username, report, replace);
	offline.import(user, username, report);
	local kept = store("roost_kept"):get(username) or {};
	for _, element in ipairs(user.tags) do
		if not carried[element.name] or element.attr.xmlns == "jabber:iq:privacy" then
			kept[element.name .. ":" .. (element.attr.xmlns or "")] = st.preserialize(element);
			report:refuse("<" .. element.name .. " xmlns='" .. tostring(element.attr.xmlns) .. "'/> of " .. username,
				"Prosody has no place for it");
		end
	end
	if next(kept) then must(store("roost_kept"):set(username, kept)); end
	return report;
end

return users;
