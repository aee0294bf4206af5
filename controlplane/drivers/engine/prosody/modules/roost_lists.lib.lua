-- Files of mod_storage_internal's lists (uploads, and archives of Prosodys that kept them there), read piece by piece:
-- Prosody's own functions load a whole one at each call.

local async = require "util.async";
local datetime = require "util.datetime";
local envload = require "util.envload".envload;

local lists, portion = {}, 50;

-- Where each entry begins, and its text. util.serialization writes no line break inside a value, so what begins a line
-- begins an entry.
local function entries(path)
	local file, buffer, at, base = io.open(path, "rb"), "", 1, 0;
	return function ()
		local from = at;
		while file do
			local stop = buffer:find("\nitem(", from, true);
			if stop then
				local start, text = base + at - 1, buffer:sub(at, stop);
				at = stop + 1;
				return start, text;
			end
			local rest, chunk = buffer:sub(at), file:read(65536);
			local start = base + at - 1;
			if not chunk then
				file:close();
				file = nil;
				if rest:find("%S") then return start, rest; end
				return nil;
			end
			buffer, at, base, from = rest .. chunk, 1, start, math.max(1, #rest - 5);
		end
	end;
end

local function decode(text, path, start)
	local item;
	local chunk = envload(text, "=entry", { item = function (value) item = value; end });
	if not chunk or not pcall(chunk) or type(item) ~= "table" or not item.attr then
		refuse(path .. " is damaged at byte " .. start);
	end
	item.when = item.when or datetime.parse(item.attr.stamp);
	item.attr.stamp, item.attr.stamp_legacy = nil, nil; -- mod_storage_internal's
	return item;
end

-- Calls that give others their turn after each portion.
function lists.pacer()
	local count = 0;
	return function ()
		count = count + 1;
		if count % portion == 0 then async.sleep(0); end
	end;
end

-- All entries, and others get their turn in between. The last one may be torn: Prosody was killed while it wrote, and
-- never acknowledged it.
function lists.each(path)
	local following, turn = entries(path), lists.pacer();
	return function ()
		local start, text = following();
		turn();
		if start and text:sub(-3) == ");\n" then return decode(text, path, start); end
	end;
end

return lists;
