-- XEP-0156: where a web client finds the websocket and BOSH endpoints, as XRD and as JSON.
-- Debian's prosody-modules have no http_altconnect. The links come from the configuration, as Roost rendered them.

local array = require "util.array";
local json = require "util.json";
local st = require "util.stanza";

module:depends("http");

local links = module:get_option("roost_host_meta", {}); -- list of { rel = …, href = … }

local function xrd()
	local document = st.stanza("XRD", { xmlns = "http://docs.oasis-open.org/ns/xri/xrd-1.0" });
	for _, link in ipairs(links) do
		document:tag("Link", { rel = link.rel, href = link.href }):up();
	end
	return [[<?xml version="1.0" encoding="UTF-8"?>]] .. tostring(document);
end

local function jrd()
	local list = array();
	for _, link in ipairs(links) do
		list:push({ rel = link.rel, href = link.href });
	end
	return json.encode({ links = list });
end

local function answer(kind, text)
	return function (event)
		event.response.headers.content_type = kind;
		return text;
	end;
end

module:provides("http", {
	default_path = "/.well-known";
	route = {
		["GET /host-meta"] = answer("application/xrd+xml; charset=utf-8", xrd());
		["GET /host-meta.json"] = answer("application/json", jrd());
	};
});
