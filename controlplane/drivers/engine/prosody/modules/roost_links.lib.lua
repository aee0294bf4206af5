-- Federation, for mod_roost_control: the streams to other servers, closing those of one pair, and the ping that
-- alone proves that a link lives.

local array = require "util.array";
local async = require "util.async";
local filters = require "util.filters";
local jid_split = require "util.jid".split;
local new_id = require "util.id".medium;
local st = require "util.stanza";
local time = require "util.time";

local host = module:get_option_string("roost_host");
local s2s_sessions = module:shared("/*/s2s/sessions");

-- What sessions themselves do not keep: session -> time. A session that is gone is forgotten with its key.
local established = setmetatable({}, { __mode = "k" });
local used = setmetatable({}, { __mode = "k" });
-- Why the last stream of a pair and direction failed; a new one that is established keeps it for whoever asks.
local failures = {};
local LONGEST_ERROR, MOST_FAILURES = 200, 1000;
local failures_count = 0;

local function ends(session)
	if session.direction == "outgoing" then return session.from_host, session.to_host; end
	return session.to_host, session.from_host;
end

local function pair_of(session)
	local own, peer = ends(session);
	return own and peer and session.direction .. " " .. own .. " " .. peer;
end

local function authentication(session)
	if session.type ~= "s2sin" and session.type ~= "s2sout" then return "unknown"; end
	if session.cert_chain_status == "valid" and session.cert_identity_status == "valid" then
		return "certificate";
	end
	return "dialback";
end

local kinds = { message = true, presence = true, iq = true };

-- Queries between two servers themselves are pings, ours or the peer's: they are no use of the link.
local function is_of_servers(stanza)
	if stanza.name ~= "iq" then return false; end
	local from_node, _, from_resource = jid_split(stanza.attr.from);
	local to_node, _, to_resource = jid_split(stanza.attr.to);
	return not (from_node or from_resource or to_node or to_resource);
end

local function seen(stanza, session)
	if kinds[stanza.name] and not stanza.attr.xmlns and not is_of_servers(stanza) then
		used[session] = time.now();
	end
	return stanza;
end

local function watch(event)
	local session = event.session;
	established[session] = time.now();
	used[session] = established[session]; -- somebody wanted it, unless it was our ping
	filters.add_filter(session, "stanzas/in", seen, -1000);
	filters.add_filter(session, "stanzas/out", seen, -1000);
end

module:hook_global("s2sout-established", watch);
module:hook_global("s2sin-established", watch);
module:hook_global("s2s-destroyed", function (event)
	local pair, reason = pair_of(event.session), event.reason;
	if not pair then return; end
	if type(reason) == "table" then reason = reason.text or reason.condition; end
	if failures[pair] then failures_count = failures_count - 1; end
	failures[pair] = nil;
	if reason then
		if failures_count >= MOST_FAILURES then failures, failures_count = {}, 0; end
		failures[pair] = tostring(reason):sub(1, LONGEST_ERROR);
		failures_count = failures_count + 1;
	end
end);

-- A session that dials has no connection that could be closed, and Prosody finds it only when the dial ends, which
-- takes as long as TCP takes for an address where nobody is. It is forgotten, and whatever comes of it is thrown away.
local abandoned = setmetatable({}, { __mode = "k" });

local function abandon(session, own, peer)
	abandoned[session] = true;
	session.destroyed = true; -- so that its end does not take the next session of this pair with it
	if prosody.hosts[own].s2sout[peer] == session then prosody.hosts[own].s2sout[peer] = nil; end
end

module:hook_global("s2sout-connected", function (event)
	local session = event.session;
	if abandoned[session] and session.conn then session.conn:close(); end
end);

-- What waited for a stream that did not come about goes out over the next one, in its order; where there is none
-- (the peer is blocked), its senders are told.
local function hand_on(queue, bounce, own, peer)
	local iq = st.iq({ from = own, to = peer, type = "get", id = new_id() }):tag("ping", { xmlns = "urn:xmpp:ping" });
	prosody.hosts[own].events.fire_event("route/remote", { from_host = own, to_host = peer, stanza = iq });
	local session = prosody.hosts[own].s2sout[peer];
	if session and session.sendq then
		for i, item in ipairs(queue) do table.insert(session.sendq, i, item); end
	elseif bounce then
		bounce({ sendq = queue, log = module._log or function () end, to_host = peer, from_host = own }, "closed");
	end
end

return {
	s2s_connections = function ()
		local connections, now = array(), time.now();
		for _, session in pairs(s2s_sessions) do
			local own, peer = ends(session);
			if own and peer then
				connections:push({
					direction = session.direction == "outgoing" and "out" or "in";
					["local"] = own;
					remote = peer;
					encrypted = session.secure and true or false;
					auth = authentication(session);
					address = session.ip or (session.conn and session.conn:ip()) or "";
					age_s = established[session] and now - established[session] or nil;
					idle_s = used[session] and now - used[session] or nil;
					error = failures[pair_of(session)] or "";
				});
			end
		end
		return connections;
	end;

	close_s2s = function (arguments)
		local own, peer = arguments["local"], arguments.remote;
		local doomed, count = {}, 0;
		for _, session in pairs(s2s_sessions) do
			local session_own, session_peer = ends(session);
			if session_own == own and session_peer == peer then
				doomed[session] = true;
				count = count + 1;
			end
		end
		local dialling = prosody.hosts[own] and prosody.hosts[own].s2sout[peer];
		if dialling and not doomed[dialling] then
			doomed[dialling] = true;
			count = count + 1;
		end
		for session in pairs(doomed) do
			local queue, bounce = session.sendq, session.bounce_sendq;
			session.sendq = nil;
			if session.conn then
				-- false, not nil: nil would wait for the peer's answer, and a dead link gives none.
				session:close(false);
			else
				abandon(session, own, peer);
			end
			if queue and queue[1] then hand_on(queue, bounce, own, peer); end
		end
		return count;
	end;

	ping = function (arguments)
		local asks = arguments["local"] or host;
		if not prosody.hosts[asks] then refuse("there is no " .. asks .. " here"); end
		local iq = st.iq({ from = asks, to = arguments.remote, type = "get", id = new_id() })
			:tag("ping", { xmlns = "urn:xmpp:ping" });
		local started = time.now();
		local answer, err = async.wait_for(module:context(asks):send_iq(iq, nil, arguments.wait_s));
		if not answer then
			local condition = type(err) == "table" and err.condition or tostring(err);
			-- XEP-0199: a peer that does not know pings has answered all the same.
			if condition ~= "service-unavailable" and condition ~= "feature-not-implemented" then
				return { error = type(err) == "table" and err.text or condition };
			end
		end
		return { seconds = time.now() - started };
	end;
}
