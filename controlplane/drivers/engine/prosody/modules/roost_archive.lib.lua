-- Message archives of users and rooms, for roost_portable: pages out, messages in at their time. Others get their turn
-- between portions; what is written is written in one go.

local async = require "util.async";
local base64 = require "util.encodings".base64;
local datetime = require "util.datetime";
local jid = require "util.jid";
local lxp = require "lxp";
local st = require "util.stanza";
local database = module:require "roost_database";
local elements = module:require "roost_elements";

local xmlns_mam, xmlns_sid = "urn:xmpp:mam:2", "urn:xmpp:sid:0";
local xmlns_forward, xmlns_delay = "urn:xmpp:forward:0", "urn:xmpp:delay";
local page_bytes, portion = 512 * 1024, 250;
-- Of messages, and the room that is made for those that come late. LuaDBI reads numbers of 32 bits.
local least_id, greatest_id, gap = -2147483648, 2147483647, 20000;
-- How many that are there already may get new numbers in one go, and by what numbers are out of the way meanwhile.
local most_between, aside = 1000, 1000000000;

local archives = {};

-- Out.

-- mod_storage_sql keeps a stanza as text without its own namespace.
local function result_of(key, value, when, stamp)
	local opening = value:match("^<message([^>]*)>");
	local xmlns = opening:find(" xmlns='", 1, true) and "" or " xmlns='jabber:client'";
	return "<result xmlns='" .. xmlns_mam .. "' id='" .. st.xml_escape(key) .. "'><forwarded xmlns='" .. xmlns_forward
		.. "'><delay xmlns='" .. xmlns_delay .. "' stamp='" .. st.xml_escape(stamp or datetime.datetime(when)) .. "'/><message"
		.. xmlns .. value:sub(9) .. "</forwarded></result>";
end

-- Texts as one: the length of each before it, and all of it in base64, which neither JSON nor XML has to look through.
local function pack(items)
	local pieces = {};
	for _, item in ipairs(items) do table.insert(pieces, #item .. ":" .. item); end
	return base64.encode(table.concat(pieces));
end

local function unpacked(text)
	local items, at = {}, 1;
	while at <= #text do
		local length, start = text:match("^(%d+):()", at);
		length = tonumber(length);
		if not length or start + length - 1 > #text then refuse("messages are cut off", "invalid"); end
		table.insert(items, text:sub(start, start + length - 1));
		at = start + length;
	end
	return items;
end

-- One page of results, oldest first.
function archives.export(place, cursor, limit)
	local after = cursor == "" and least_id or cursor:match("^%-?%d+$") and tonumber(cursor);
	if not after then refuse("no cursor: " .. cursor, "invalid"); end
	local items, bytes = {}, 0;
	while true do
		local wanted = math.min(portion, limit - #items);
		local rows = database.transaction(database.rows, [[SELECT "sort_id", "key", "value", "when", "roost_stamp"
			FROM "prosodyarchive" WHERE "host"=? AND "user"=? AND "store"=? AND "sort_id">? ORDER BY "sort_id" LIMIT ?]],
			place.host, place.name, place.store, after, wanted);
		for _, row in ipairs(rows) do
			after = row[1];
			local result = result_of(row[2], row[3], row[4], row[5]);
			table.insert(items, result);
			bytes = bytes + #result;
			if bytes >= page_bytes then break; end
		end
		local is_end = #rows < wanted and after == (rows[#rows] or { after })[1];
		if is_end or #items >= limit or bytes >= page_bytes then
			return raw('{"packed":"' .. pack(items) .. '","cursor":"' .. (is_end and "" or string.format("%d", after)) .. '"}');
		end
		async.sleep(0);
	end
end

-- In.

-- Who is at the other end, as mod_mam has it for its queries; for a room, the kind of the stanza (mod_muc_mam).
local function with_of(place, from, to, kind)
	if place.is_room then return "message" .. (kind and "<" .. kind or ""); end
	local known = place.known;
	local function prep(text)
		if text and known[text] == nil then known[text] = jid.prep(text) or false; end
		return text and known[text] or nil;
	end
	from, to = prep(from), prep(to);
	if not from or jid.bare(from) == place.jid then return jid.bare(to or place.jid); end
	return jid.bare(from);
end

local frame = "^<result xmlns='urn:xmpp:mam:2' id='([^'&<>]+)'><forwarded xmlns='urn:xmpp:forward:0'>"
	.. "<delay xmlns='urn:xmpp:delay' stamp='([^'&<>]+)'/><message xmlns='jabber:client'([^<>]*)(>.*)</forwarded></result>$";
local max_depth = 100;

local function is_whole(text)
	local parser = lxp.new({}, "\1");
	local ok = parser:parse(text) and parser:parse();
	parser:close();
	return ok;
end

-- What Roost's own reader and writer make is looked through by expat alone and kept as the text that it is; that is
-- most of the time of an import. nil: it has to be read as XML, element by element.
local function quick(place, text)
	local key, stamp, attributes, rest = text:match(frame);
	if not key or text:find("<!", 1, true) or text:find("<?", 1, true) or text:find("xmlns:", 1, true) then return nil; end
	if attributes:gsub(" [%w_.-]+='[^'&]*'", ""):gsub("^/$", "") ~= "" then return nil; end
	local _, closings = text:gsub("</", "");
	if closings > max_depth or (text:find(xmlns_sid, 1, true) and text:find(place.jid, 1, true)
		and text:find("<stanza-id", 1, true)) then
		return nil;
	end
	local value = "<message" .. attributes .. rest;
	if not is_whole(value) then return nil; end
	local when, exact = elements.time(stamp);
	if not when or when < 0 or when > greatest_id then return nil; end
	local function attribute(name) return attributes:match(" " .. name .. "='([^']*)'"); end
	return { key = key, when = when, stamp = exact, value = value,
		with = with_of(place, attribute("from"), attribute("to"), attribute("type")) };
end

local function piece_of(place, result)
	local key = result.attr.id;
	local forwarded = result:get_child("forwarded", xmlns_forward);
	local delay = forwarded and forwarded:get_child("delay", xmlns_delay);
	local message = forwarded and forwarded:get_child("message", elements.client);
	local when, stamp = elements.time(delay and delay.attr.stamp);
	if not key or key == "" then return nil, "it has no id"; end
	if not message then return nil, "there is no message in it"; end
	if not when then return nil, "it has no time"; end
	if when < 0 or when > greatest_id then return nil, "Prosody keeps times from 1970 to 2038"; end
	message = st.clone(message);
	message:maptags(function (tag)
		return not (tag.name == "stanza-id" and tag.attr.xmlns == xmlns_sid and tag.attr.by == place.jid) and tag or nil;
	end);
	elements.as_stanza(message);
	return { key = key, when = when, stamp = stamp, value = elements.exact(message),
		with = with_of(place, message.attr.from, message.attr.to, message.attr.type) };
end

local function sorted(pieces)
	for position, piece in ipairs(pieces) do piece.position = position; end
	table.sort(pieces, function (one, other)
		if one.when ~= other.when then return one.when < other.when; end
		return one.position < other.position;
	end);
	return pieces;
end

local function marks(count) return "(" .. string.rep("?,", count):sub(1, -2) .. ")"; end

-- Those whose key is not there yet, each once.
local function unknown(place, pieces)
	local keys, seen, new = {}, {}, {};
	for i, piece in ipairs(pieces) do keys[i] = piece.key; end
	for _, row in ipairs(database.rows([[SELECT "key" FROM "prosodyarchive" WHERE "host"=? AND "user"=? AND "store"=?
		AND "key" IN ]] .. marks(#keys), place.host, place.name, place.store, table.unpack(keys))) do
		seen[row[1]] = true;
	end
	for _, piece in ipairs(pieces) do
		if not seen[piece.key] then
			seen[piece.key] = true;
			table.insert(new, piece);
		end
	end
	return new;
end

-- A query over one archive.
local of_archive = [[FROM "prosodyarchive" WHERE "host"=? AND "user"=? AND "store"=?]];
local function own_rows(place, before, after, ...)
	return database.rows(before .. " " .. of_archive .. " " .. after, place.host, place.name, place.store, ...);
end

-- After which number so many fit before the number of the one that comes after them; nil: there is no room.
local function start_of(place, low, high, count)
	local of_others = [[ AND NOT ("host"=? AND "user"=? AND "store"=?)]];
	if low + count < high and not database.rows([[SELECT 1 FROM "prosodyarchive" WHERE "sort_id">? AND "sort_id"<=?]]
		.. of_others .. " LIMIT 1", low, low + count, place.host, place.name, place.store)[1] then
		return low;
	end
	local last = database.rows([[SELECT "sort_id" FROM "prosodyarchive" WHERE "sort_id"<?]] .. of_others
		.. [[ ORDER BY "sort_id" DESC LIMIT 1]], high, place.host, place.name, place.store)[1];
	low = math.max(low, last and last[1] or low);
	return low + count < high and low or nil;
end

-- Gives the new pieces their numbers, and those that are between them in time new ones. False: there is no room.
local function number(place, new, between)
	local first, last = new[1].when, new[#new].when;
	local before = own_rows(place, [[SELECT "sort_id"]], [[AND "when"<=? ORDER BY "when" DESC, "sort_id" DESC LIMIT 1]], first)[1];
	local after = own_rows(place, [[SELECT "sort_id"]], [[AND "when">? ORDER BY "when", "sort_id" LIMIT 1]], last)[1];
	if not after and #between == 0 then return true; end -- SQLite gives the next numbers
	local id;
	if after then
		id = start_of(place, before and before[1] or least_id, after[1], #new + #between);
	else
		id = database.rows([[SELECT MAX("sort_id") FROM "prosodyarchive"]])[1][1];
	end
	if not id then return false; end
	for _, row in ipairs(between) do -- out of the way of each other
		database.change([[UPDATE "prosodyarchive" SET "sort_id"=? WHERE "sort_id"=?]], row[1] + aside, row[1]);
	end
	local following = 1;
	for i = 1, #between + 1 do
		while new[following] and (not between[i] or new[following].when < between[i][2]) do
			id = id + 1;
			new[following].id = id;
			following = following + 1;
		end
		if between[i] then
			id = id + 1;
			database.change([[UPDATE "prosodyarchive" SET "sort_id"=? WHERE "sort_id"=?]], id, between[i][1] + aside);
		end
	end
	return true;
end

local function between_of(place, new, limit)
	return own_rows(place, [[SELECT "sort_id", "when"]], [[AND "when">? AND "when"<=? ORDER BY "when", "sort_id" LIMIT ?]],
		new[1].when, new[#new].when, limit);
end

-- How many were new; false if there is no room; nil if too many others are between them in time for one go.
local function insert(place, pieces)
	local new = unknown(place, pieces);
	if #new == 0 then return 0; end
	local between = between_of(place, new, most_between + 1);
	if #between > most_between then return nil; end
	if not number(place, new, between) then return false; end
	for _, piece in ipairs(new) do
		database.change([[INSERT INTO "prosodyarchive" ("sort_id", "host", "user", "store", "when", "with", "key", "type",
			"value", "roost_stamp") VALUES (?,?,?,?,?,?,?,'xml',?,?)]], piece.id, place.host, place.name, place.store,
			piece.when, piece.with, piece.key, piece.value, piece.stamp);
	end
	return #new;
end

-- Moves what is newer than that behind everything, with a gap before it: the newest first, so that the order is right
-- at each moment though others have a turn.
local function make_room(place, when)
	local count = own_rows(place, "SELECT COUNT(*)", [[AND "when">?]], when)[1][1];
	local last = database.rows([[SELECT MAX("sort_id") FROM "prosodyarchive"]])[1][1];
	local target, below = last + gap + count, last + 1;
	if target > greatest_id - aside then refuse("the numbers of messages are used up"); end
	repeat
		local moved = database.transaction(function ()
			local rows = own_rows(place, [[SELECT "sort_id"]], [[AND "when">? AND "sort_id"<? ORDER BY "sort_id" DESC LIMIT ?]],
				when, below, portion);
			for _, row in ipairs(rows) do
				database.change([[UPDATE "prosodyarchive" SET "sort_id"=? WHERE "sort_id"=?]], target, row[1]);
				target, below = target - 1, row[1];
			end
			return #rows;
		end);
		async.sleep(0);
	until moved < portion;
end

-- Brings messages, sorted by time, to their place.
local function put(place, pieces)
	if #pieces == 0 then return 0; end
	local made = database.transaction(insert, place, pieces);
	if made == false then
		make_room(place, pieces[#pieces].when);
		made = database.transaction(insert, place, pieces);
	end
	if not made and #pieces > 1 then
		local half = #pieces // 2;
		return put(place, table.move(pieces, 1, half, 1, {})) + put(place, table.move(pieces, half + 1, #pieces, 1, {}));
	end
	return made or refuse("there is no room in the archive of " .. place.jid);
end

-- mod_storage_sql keeps how many there are in memory: it counts anew.
function archives.count_anew(place)
	must(module:context(place.host):open_store(place.store, "archive"):delete(place.name, { key = "" }));
end

function archives.import(place, packed)
	local report, pieces = elements.report(), {};
	place.known = {};
	for _, text in ipairs(unpacked(packed)) do
		local piece, why = quick(place, text), nil;
		if not piece then
			local result = elements.read(text, "result", xmlns_mam);
			piece, why = piece_of(place, result);
			if not piece then report:refuse("message " .. tostring(result.attr.id) .. " of " .. place.jid, why); end
		end
		table.insert(pieces, piece);
	end
	report.made = put(place, sorted(pieces));
	if report.made > 0 then archives.count_anew(place); end
	return report;
end

-- What a list file of mod_storage_internal has, for those who kept their archives in them until now.
function archives.take_over(place, items)
	local pieces, made = {}, 0;
	place.known = {};
	for item in items do
		local message = st.deserialize(item);
		table.insert(pieces, { key = item.key, when = item.when, stamp = item.roost_stamp, value = elements.exact(message),
			with = item.with or with_of(place, message.attr.from, message.attr.to, message.attr.type) });
		if #pieces == portion then
			made, pieces = made + put(place, sorted(pieces)), {};
		end
	end
	made = made + put(place, sorted(pieces));
	if made > 0 then archives.count_anew(place); end
	return made;
end

return archives;
