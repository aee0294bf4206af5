-- Federation is refused with the domains of s2s_blocked and everything below them, in both directions; "*" is all.
-- The list is read again on a reload, and streams with a newly blocked domain are closed.

local st = require "util.stanza";
local sessions = module:shared("/*/s2s/sessions");
local blocked;

local function is_blocked(domain)
	if blocked:contains("*") then return true; end
	while domain and not blocked:empty() do
		if blocked:contains(domain) then return true; end
		domain = domain:match("%.(.+)$");
	end
	return false;
end

local function read()
	blocked = module:get_option_set("s2s_blocked", {});
end
read();

local function close_blocked()
	read();
	local doomed = {};
	for _, session in pairs(sessions) do
		local own, peer = session.to_host, session.from_host;
		if session.direction == "outgoing" then own, peer = peer, own; end
		if own == module.host and is_blocked(peer) then
			table.insert(doomed, session);
		end
	end
	for _, session in ipairs(doomed) do
		session:close({ condition = "policy-violation", text = "No federation with this domain" });
	end
end
module:hook_global("config-reloaded", close_blocked);

module:hook("route/remote", function (event)
	if not is_blocked(event.to_host) then return; end
	local stanza = event.stanza;
	if stanza.attr.type ~= "error" and stanza.attr.type ~= "result" then
		module:send(st.error_reply(stanza, "cancel", "not-allowed", "No federation with this domain"));
	end
	return true;
end, 1000);

local function refuse(event)
	local origin, stanza = event.origin, event.stanza;
	local peer = stanza.attr.from or origin.from_host;
	if origin.direction == "incoming" and (is_blocked(peer) or is_blocked(origin.from_host)) then
		origin:close({ condition = "policy-violation", text = "No federation with this domain" });
		return true;
	end
end

module:hook("stanza/jabber:server:dialback:result", refuse, 1000);
module:hook("stanza/urn:ietf:params:xml:ns:xmpp-sasl:auth", refuse, 1000);
