-- What the roost_portable libraries share: portable elements read and compared, and the report of an import.

local array = require "util.array";
local datetime = require "util.datetime";
local st = require "util.stanza";
local parse = require "util.xml".parse;

local elements = { ours = "urn:roost:portable:1", client = "jabber:client" };

-- Whether it is a name of rooms that Roost's checks make and destroy.
function elements.is_check(name)
	return type(name) == "string" and name:sub(1, 12) == "roost-check-";
end

-- util.serialization writes 127 levels of tables at most; what is deeper is refused before anything is written.
local function is_deeper(element, levels)
	for _, child in ipairs(element.tags) do
		if levels == 0 or is_deeper(child, levels - 1) then return true; end
	end
	return false;
end

-- An element from text that may be hostile: util.xml takes no document type and so no entities.
function elements.read(text, name, xmlns)
	local element, why = parse(text);
	if not element then refuse("no XML: " .. tostring(why), "invalid"); end
	if element.name ~= name or element.attr.xmlns ~= xmlns then
		refuse("<" .. name .. " xmlns='" .. xmlns .. "'/> was wanted and not <" .. element.name .. "/>", "invalid");
	end
	if is_deeper(element, 100) then refuse("an element is too deep", "invalid"); end
	return element;
end

-- Prosody keeps a stanza's own namespace nowhere but in what is below another one, as its streams read it.
function elements.as_stanza(element)
	if element.attr.xmlns ~= elements.client then return element; end
	element.attr.xmlns = nil;
	for _, child in ipairs(element.tags) do elements.as_stanza(child); end
	return element;
end

-- Text that is the same for the same element, whatever the order of attributes and how often a namespace is said.
-- What was kept (st.preserialize) is an element, too.
function elements.canonical(element, outer)
	local xmlns = element.attr.xmlns or outer or elements.client;
	local attributes, parts = {}, {};
	for name, value in pairs(element.attr) do
		if name ~= "xmlns" then table.insert(attributes, name .. "\2" .. value); end
	end
	table.sort(attributes);
	for _, child in ipairs(element) do
		table.insert(parts, type(child) == "table" and elements.canonical(child, xmlns) or "\4" .. child);
	end
	return "\1" .. xmlns .. "\2" .. element.name .. "\3" .. table.concat(attributes, "\3")
		.. table.concat(parts) .. "\5";
end

-- Whether a name of an attribute has a namespace: st.preserialize keeps it before a \1 or, of older Prosodys, a bar.
local function is_qualified(name)
	return name:find("[\1|]") ~= nil;
end

local in_text, in_value = { ["\r"] = "&#13;" }, { ["\r"] = "&#13;", ["\n"] = "&#10;", ["\t"] = "&#9;" };

local function write(element, outer, buffer)
	table.insert(buffer, "<" .. element.name);
	local xmlns = element.attr.xmlns or outer;
	for name, value in pairs(element.attr) do
		if is_qualified(name) then return false; end
		if name ~= "xmlns" or value ~= outer then
			table.insert(buffer, " " .. name .. "='" .. st.xml_escape(value):gsub("[\r\n\t]", in_value) .. "'");
		end
	end
	if not element[1] then
		table.insert(buffer, "/>");
		return true;
	end
	table.insert(buffer, ">");
	for _, child in ipairs(element) do
		if type(child) == "string" then
			table.insert(buffer, (st.xml_escape(child):gsub("\r", in_text)));
		elseif not write(child, xmlns, buffer) then
			return false;
		end
	end
	table.insert(buffer, "</" .. element.name .. ">");
	return true;
end

-- The text of an element from which it is read again as it is: line breaks in attributes, too.
function elements.exact(element)
	local buffer = {};
	return write(element, nil, buffer) and table.concat(buffer) or tostring(element);
end

function elements.alike(one, other)
	return elements.canonical(one) == elements.canonical(other);
end

-- Whether two values have the same in them.
function elements.same(one, other)
	if type(one) ~= "table" or type(other) ~= "table" then return one == other; end
	for key, value in pairs(one) do
		if not elements.same(value, other[key]) then return false; end
	end
	for key in pairs(other) do
		if one[key] == nil then return false; end
	end
	return true;
end

function elements.sorted_keys(from)
	local keys = {};
	for key in pairs(from or {}) do
		if type(key) == "string" then table.insert(keys, key); end
	end
	table.sort(keys);
	return keys;
end

-- Up to limit of the names that sort after the given one.
function elements.page(names, after, limit)
	local found = array();
	table.sort(names);
	for _, name in ipairs(names) do
		if name > after and #found < limit then found:push(name); end
	end
	return found;
end

-- A form's fields that Prosody has no use for are kept beside what it knows, and handed out again.
function elements.field(form, name, values)
	form:tag("field", { var = name });
	for _, value in ipairs(values) do form:text_tag("value", value); end
	form:up();
end

function elements.values(field)
	local values = {};
	for value in field:childtags("value") do table.insert(values, value:get_text() or ""); end
	return values;
end

function elements.form(form_type)
	return st.stanza("x", { xmlns = "jabber:x:data", type = "submit" })
		:tag("field", { var = "FORM_TYPE", type = "hidden" }):text_tag("value", form_type):up();
end

-- Days from 1970 to a day of the Gregorian calendar, whose years begin in March.
local function days(year, month, day)
	if month <= 2 then year, month = year - 1, month + 12; end
	return 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 719469;
end

-- Seconds, and the text if it says more than Prosody can keep: whole seconds. (util.datetime asks the C library, twice.)
function elements.time(stamp)
	if type(stamp) ~= "string" then return nil; end
	local year, month, day, hour, minute, second = stamp:match("^(%d%d%d%d)-(%d%d)-(%d%d)T(%d%d):(%d%d):(%d%d)Z$");
	if year and month >= "01" and month <= "12" and day >= "01" and day <= "28" and hour < "24" and minute < "60"
		and second < "60" then
		return days(tonumber(year), tonumber(month), tonumber(day)) * 86400 + hour * 3600 + minute * 60 + second;
	end
	local when = datetime.parse(stamp);
	return when, when and datetime.datetime(when) ~= stamp and stamp or nil;
end

local report_mt = { __index = {} };

function elements.report()
	return setmetatable({ made = 0, changed = 0, skipped = 0, refused = array() }, report_mt);
end

function report_mt.__index:refuse(what, why)
	self.refused:push(array({ what, why }));
end

-- What to do with a piece: "made" or "changed" if it has to be written, nil if not.
function report_mt.__index:judge(is_there, is_alike, replace)
	if not is_there then
		self.made = self.made + 1;
		return "made";
	elseif is_alike then
		return nil;
	elseif not replace then
		self.skipped = self.skipped + 1;
		return nil;
	end
	self.changed = self.changed + 1;
	return "changed";
end

return elements;
