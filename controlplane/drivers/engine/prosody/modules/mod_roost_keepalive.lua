-- The kernel asks the other end of an idle s2s connection of ours whether it is there: a dead one is found though
-- nobody writes, by the watcher after the second question and by the kernel itself after the last. Prosody's own
-- option sets how long a connection is idle before, for clients as well, and not how often and how many times.

module:set_global();

local socket = require "socket";

-- Seconds idle, seconds between two questions, questions without an answer (tcp(7)).
local options = { { "keepalive", true }, { "tcp-keepidle", 5 }, { "tcp-keepintvl", 1 }, { "tcp-keepcnt", 8 } };

-- A TLS connection of LuaSec has no options to set: they are set through another object with the same descriptor,
-- which must not close it when it is collected.
local function set(fd)
	local borrowed = socket.tcp();
	borrowed:setfd(fd);
	for _, option in ipairs(options) do
		local ok, err = borrowed:setoption(option[1], option[2]);
		if not ok then module:log("warn", "%s cannot be set: %s", option[1], err); end
	end
	borrowed:setfd(socket._SOCKETINVALID);
end

module:hook("s2sout-connected", function (event)
	local fd = event.session.conn:getfd();
	if type(fd) == "number" and fd >= 0 then set(fd); end
end);
