-- PROXY protocol version 2 on the ports that the edge forwards to (haproxy.org/download/2.6/doc/proxy-protocol.txt, 2.2).
--
-- A connection to one of them is answered only if it comes from an edge and starts with a v2 header. The
-- header's source becomes the connection's address, then the connection goes on as any other of that port:
-- TLS on a direct-TLS port starts after the header. Needs the epoll backend.

module:set_global();

local portmanager = require "core.portmanager";
local net = require "util.net";
local server = require "net.server";
local socket = require "socket";

assert(server.get_backend() == "epoll", "mod_roost_proxy needs network_backend = \"epoll\"");

local edges = module:get_option_set("roost_edge_addresses", {});
local services = module:get_option_set("roost_proxied_services", {});
local header_timeout_s = 5;

local SIGNATURE = "\r\n\r\n\0\r\nQUIT\n";
local FIXED_PART = 16;
local MAX_ADDRESS_PART = 2048; -- addresses and TLVs; HAProxy sends some hundred bytes at most
local MAPPED = ("\0"):rep(10) .. "\255\255";
local SOURCE_AND_DESTINATION = { [0x11] = "c4c4>I2I2", [0x21] = "c16c16>I2I2" }; -- TCP over IPv4 and IPv6

module:hook("config-reloaded", function ()
	edges = module:get_option_set("roost_edge_addresses", {});
end);

-- recv(2) of at most so many bytes. A TCP object of LuaSocket would read on into a buffer of its own, where the
-- TLS handshake behind the header would be lost to LuaSec; a UDP object reads what it is asked for and no more.
local receiver = socket.udp();
receiver:close();
receiver:settimeout(0);
local function recv(fd, size)
	receiver:setfd(fd);
	local data, err = receiver:receive(size);
	receiver:setfd(-1);
	return data, err;
end

-- Whether the header is good; then the source's address and port, or nothing where it does not tell them.
local function parse(fixed, rest)
	local version_and_command, family = fixed:byte(13, 14);
	if version_and_command == 0x20 then
		return true; -- LOCAL: the edge speaks for itself (2.2, "must use the real connection endpoints")
	elseif version_and_command ~= 0x21 then
		return false, "neither PROXY nor LOCAL of version 2";
	end
	local format = SOURCE_AND_DESTINATION[family];
	if not format then
		return family == 0x00, "an address family that is not TCP over IP";
	end
	local size = family == 0x11 and 12 or 36;
	if #rest < size then
		return false, "too short for its addresses";
	end
	local source, _, source_port = string.unpack(format, rest);
	if source:sub(1, 12) == MAPPED then -- an IPv4 client whose edge reaches us over IPv6 (RFC 4291, 2.5.5.2)
		source = source:sub(13);
	end
	return true, net.ntop(source), source_port;
end

-- Continue as the server's own accept function does after accept(2).
local function hand_over(conn, address, port)
	local listening = conn._server;
	if address then
		conn.peername, conn.peerport = address, port;
		conn.updatenames = function () end; -- it would ask the socket again, which knows the edge only
	end
	conn:setreadtimeout(false);
	conn.onreadable, conn.onconnect, conn._connected = nil, nil, nil;
	conn.listeners = listening.roost_listeners; -- not .listeners: the header may be there within accept already
	if listening.roost_direct_tls then
		conn.tls_direct = true;
		conn:set(true, true);
		conn:inittls(listening.tls_ctx, true);
	else
		conn:onconnect();
		conn:onreadable();
	end
end

local function refuse(conn, why)
	module:log("warn", "Refused a connection from %s: %s", conn.peername or "nowhere", why);
	conn:destroy();
end

local function read_header(conn)
	local wanted = conn.roost_wanted;
	local data, err = recv(conn:getfd(), wanted - #conn.roost_header);
	if not data then
		return err ~= "timeout" and refuse(conn, err) or nil;
	elseif data == "" then
		return conn:destroy(); -- a port check
	end
	local header = conn.roost_header .. data;
	conn.roost_header = header;
	if header:sub(1, #SIGNATURE) ~= SIGNATURE:sub(1, #header) then
		return refuse(conn, "no PROXY header of version 2");
	elseif #header < wanted then
		return;
	elseif wanted == FIXED_PART then
		local length = string.unpack(">I2", header, 15);
		if length > MAX_ADDRESS_PART then
			return refuse(conn, "a PROXY header that is too long");
		elseif length > 0 then
			conn.roost_wanted = FIXED_PART + length;
			return read_header(conn);
		end
	end
	local ok, address, port = parse(header:sub(1, FIXED_PART), header:sub(FIXED_PART + 1));
	conn.roost_header = nil;
	if not ok then
		return refuse(conn, "a PROXY header with " .. (address or "nothing in it"));
	end
	return hand_over(conn, address, port);
end

-- What a connection has for a listener until its header was read.
local header_listener = {};

function header_listener.onconnect(conn)
	if not edges:contains(conn.peername) then
		refuse(conn, "it is no edge");
		conn.onreadable = function () end;
		return;
	end
	conn.roost_header, conn.roost_wanted = "", FIXED_PART;
	conn.onreadable = read_header;
	conn:setreadtimeout(header_timeout_s);
end

-- The server object's own accept makes the connection; for that moment it is a plain one with our listener.
local function accept(listening)
	listening.listeners, listening.tls_direct = header_listener, false;
	local ok, err = pcall(listening.onacceptable, listening);
	listening.listeners, listening.tls_direct = listening.roost_listeners, listening.roost_direct_tls;
	if not ok then
		module:log("error", "Accepting a connection failed: %s", err);
	end
end

local function each_listening(callback)
	for name, _, _, _, active in portmanager.get_active_services():iter(nil, nil, nil, nil) do
		if services:contains(name) then
			callback(active.server);
		end
	end
end

local function take(listening)
	if listening.roost_direct_tls == nil then
		listening.roost_direct_tls = listening.tls_direct and true or false;
		listening.roost_listeners = listening.listeners;
		listening.onreadable = accept;
	end
end

local function take_all() each_listening(take); end

module:hook("service-added", take_all);

-- Prosody 0.12 gives a renewed context to the server's _sslctx only, while new connections use tls_ctx: without
-- this, clients that send no SNI would see the old certificate until the next restart.
module:hook("config-reloaded", function ()
	each_listening(function (listening)
		listening.tls_ctx = listening._sslctx or listening.tls_ctx;
	end);
end, -10);

function module.load() take_all(); end

function module.unload()
	each_listening(function (listening)
		listening.tls_direct, listening.roost_direct_tls = listening.roost_direct_tls, nil;
		listening.onreadable = listening.onacceptable;
	end);
end
