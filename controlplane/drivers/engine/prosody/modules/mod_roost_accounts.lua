-- Disabled accounts, which Prosody 0.12 has not: their logins are refused (RFC 6120 6.5.1, account-disabled),
-- their sessions are closed, their data stays. mod_roost_control calls the functions below.

local hosts = prosody.hosts;
local disabled = module:open_store("roost_disabled");
local provider = hosts[module.host].users;
local original = provider.get_sasl_handler;

function is_disabled(username)
	return disabled:get(username) ~= nil;
end

-- Every back end of a SASL profile tells the account's state in its last value; false means disabled.
local function guard(back_end, values)
	return function (self, username, ...)
		local found = table.pack(back_end(self, username, ...));
		if found[1] and is_disabled(username) then
			found[values], found.n = false, values;
		end
		return table.unpack(found, 1, found.n);
	end;
end

function provider.get_sasl_handler(session)
	local handler = original(session);
	local profile = handler.profile;
	for name, back_end in pairs(profile) do
		if name == "plain_test" then
			profile[name] = guard(back_end, 2);
		elseif type(back_end) == "function" and name:sub(1, 6) == "scram_" then
			profile[name] = guard(back_end, 5);
		end
	end
	return handler;
end

function module.unload()
	provider.get_sasl_handler = original;
end

function set_enabled(username, enabled)
	if enabled then
		return disabled:set(username, nil);
	end
	local ok, err = disabled:set(username, { since = os.time() });
	if not ok then return ok, err; end
	local user = hosts[module.host].sessions[username];
	local sessions = {}; -- closing changes user.sessions
	for _, session in pairs(user and user.sessions or {}) do
		table.insert(sessions, session);
	end
	for _, session in ipairs(sessions) do
		session:close({ condition = "not-authorized", text = "Account disabled" });
	end
	return true;
end
