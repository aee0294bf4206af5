-- Roost's control channel: functions that are called by name over Prosody's admin socket, with JSON both ways.
--
--   <call xmlns="urn:roost:control:1" name="create_account" domain="acme.example">{"username": …}</call>
--     (what is long is in a child of it, <payload>base64</payload>)
--   <result xmlns="urn:roost:control:1">{"value": …}</result>, or {"error": …, "kind": "rejected" | "invalid"}
--
-- Nothing that is sent in a call is evaluated. The functions are in roost_*.lib.lua beside this file, by subject.
-- Who may open the socket may call: its directory belongs to the control group. What is meant for another domain is
-- refused: a hostile neighbour can put a link to our socket where its own should be.

module:set_global();

local base64 = require "util.encodings".base64;
local json = require "util.json";
local modulemanager = require "core.modulemanager";
local st = require "util.stanza";

local xmlns = "urn:roost:control:1";
local functions = {};

-- A refusal that the caller is told, against an error of ours that the log is told.
local refusal_mt = {};
function refuse(text, kind)
	error(setmetatable({ text = text, kind = kind or "rejected" }, refusal_mt), 0);
end

-- For what Prosody answers with nil and a reason.
function must(ok, err)
	if not ok then refuse(tostring(err or "refused without a reason")); end
	return ok;
end

-- For a value that is JSON already, without a character that XML has to escape: both would look at each one of a long
-- text.
local raw_mt = {};
function raw(text)
	return setmetatable({ text = text }, raw_mt);
end

for _, subject in ipairs({ "accounts", "rooms", "roll", "server", "links", "portable", "upkeep" }) do
	for name, callable in pairs(module:require("roost_" .. subject)) do
		functions[name] = callable;
	end
end

local host = module:get_option_string("roost_host");

local function run(name, domain, text, payload)
	if domain ~= host then
		return { error = "this is the server of " .. tostring(host), kind = "rejected" };
	end
	local callable = functions[name];
	if not callable then
		return { error = "there is no function " .. tostring(name), kind = "rejected" };
	end
	local arguments, why = json.decode(text);
	if type(arguments) ~= "table" then
		return { error = "not JSON: " .. tostring(why), kind = "invalid" };
	end
	arguments.payload = payload and base64.decode(payload);
	local ok, value = xpcall(callable, function (err)
		return getmetatable(err) == refusal_mt and err or debug.traceback(tostring(err));
	end, arguments);
	if ok then
		return { value = value };
	elseif getmetatable(value) == refusal_mt then
		return { error = value.text, kind = value.kind };
	end
	module:log("error", "%s failed: %s", name, value);
	return { error = name .. " failed, see the server's log", kind = "rejected" };
end

module:hook("admin/" .. xmlns .. ":call", function (event)
	local call, text = event.stanza, {};
	for _, part in ipairs(call) do
		if type(part) == "string" then table.insert(text, part); end
	end
	local result = run(call.attr.name, call.attr.domain, table.concat(text), call:get_child_text("payload", xmlns));
	if getmetatable(result.value) == raw_mt then
		event.origin.send("<result xmlns='" .. xmlns .. "'>{\"value\":" .. result.value.text .. "}</result>");
	else
		event.origin.send(st.stanza("result", { xmlns = xmlns }):text(json.encode(result)));
	end
	return true;
end);

-- The socket tells the node that the server is up. Enabled in the configuration, it would be there before the
-- ports are: a client that comes in between is turned away. The shell is for people (prosodyctl shell).
module:hook("server-started", function ()
	assert(modulemanager.load("*", "admin_shell"));
end);
