-- The vCard of a user as a portable element, for roost_portable. Prosody has none: mod_vcard_legacy makes it of PEP
-- nodes at each question and takes it apart into them. The whole one is kept beside, together with what others saw of
-- it then: as long as they still see the same, it is handed out, and not what was made of it.

local sha256 = require "util.hashes".sha256;
local st = require "util.stanza";
local elements = module:require "roost_elements";

local host = module:get_option_string("roost_host");
local made_nodes = { "urn:xmpp:vcard4", "urn:xmpp:avatar:data", "urn:xmpp:avatar:metadata" };

local vcard = {};

-- As others see it, or nil.
local function seen(username)
	local answer;
	local owner = username .. "@" .. host;
	prosody.hosts[host].events.fire_event("iq-get/bare/vcard-temp:vCard", {
		origin = { username = username, host = host, type = "c2s", send = function (reply) answer = reply; end };
		stanza = st.iq({ type = "get", id = "roost", from = owner, to = owner })
			:tag("vCard", { xmlns = "vcard-temp" }):reset();
	});
	local found = answer and answer:get_child("vCard", "vcard-temp");
	return found and found.tags[1] and found or nil;
end

local function digest(element)
	return element and sha256(elements.canonical(element), true) or "";
end

local function store(name)
	return module:context(host):open_store(name);
end

-- Adds <vCard/>; gives names of PEP nodes that were made of it alone and are no others' business.
function vcard.export(user, username)
	local legacy = store("vcard"):get(username); -- of an older Prosody; mod_vcard_legacy moves it at the next login
	local kept, now = store("roost_vcard"):get(username), seen(username);
	if legacy and legacy.attr then
		user:add_child(st.deserialize(legacy));
	elseif kept and kept.seen == digest(now) then
		user:add_child(st.deserialize(kept.vcard));
		return kept.made or {};
	elseif now then
		user:add_child(now);
	end
	return {};
end

-- After the PEP nodes, which say more.
function vcard.import(user, username, report, replace)
	local given = user:get_child("vCard", "vcard-temp");
	if not given or not given.tags[1] then return; end
	local now, kept = seen(username), store("roost_vcard"):get(username);
	if kept and kept.seen ~= digest(now) then kept = nil; end
	local current = kept and st.deserialize(kept.vcard) or now;
	if not report:judge(current ~= nil, current and elements.alike(current, given), replace) then return; end
	local nodes = store("pep"):get(username) or {};
	local made, legacy = {}, prosody.hosts[host].modules.vcard_legacy;
	local service = prosody.hosts[host].modules.pep.get_pep_service(username);
	local vcard4, avatar = legacy.vcard_to_pep(given);
	local has_avatar = nodes["urn:xmpp:avatar:data"] or nodes["urn:xmpp:avatar:metadata"];
	for _, name in ipairs(made_nodes) do
		made[name] = kept and kept.made[name] or not nodes[name];
	end
	if not made["urn:xmpp:vcard4"] then vcard4 = nil; end
	if has_avatar and not made["urn:xmpp:avatar:data"] or not avatar.hash then avatar = nil; end
	must(legacy.save_to_pep(service, true, vcard4, avatar));
	must(store("roost_vcard"):set(username, {
		vcard = st.preserialize(given), seen = digest(seen(username)), made = made }));
end

return vcard;
