-- The list of uploaded files (mod_http_file_share), for roost_portable. Their bytes are carried by whoever may read and
-- write the instance's files; here is said which they are and where they belong.

local array = require "util.array";
local datamanager = require "core.storagemanager".olddm;
local datetime = require "util.datetime";
local lfs = require "lfs";
local st = require "util.stanza";
local elements = module:require "roost_elements";
local lists = module:require "roost_lists";

local upload_host = module:get_option_string("roost_upload_host");

local uploads = {};

local function list()
	return lists.each(datamanager.getpath(nil, upload_host, "uploads", "list"));
end

-- In the file system, and below the instance's root.
local function places(id, create)
	local file = datamanager.getpath(id, upload_host, "http_file_share", "bin", create);
	return file, "data" .. file:sub(#prosody.paths.data + 1);
end

-- A page, sorted by id; those that were announced and never came are left out.
function uploads.export(after, limit)
	local found, files = {}, array();
	for item in list() do
		if item.key > after then table.insert(found, item); end
	end
	table.sort(found, function (one, other) return one.key < other.key; end);
	for _, item in ipairs(found) do
		local file, path = places(item.key);
		local size = lfs.attributes(file, "size");
		if size and #files < limit then
			files:push({ id = item.key, path = path, name = item.attr.filename or "", size = size,
				type = item.attr["content-type"] or "application/octet-stream", user = item.with or "", at = item.when });
		end
	end
	return files;
end

local function add(upload)
	local item = st.preserialize(st.stanza("request", { xmlns = "urn:xmpp:http:upload:0", filename = upload.name,
		size = string.format("%d", upload.size), ["content-type"] = upload.type, stamp = datetime.datetime(upload.at) }));
	item.key, item.when, item.with = upload.id, upload.at, upload.user;
	must(datamanager.list_append(nil, upload_host, "uploads", item));
end

-- Notes them down, so that their old addresses lead to them, and says where each one's bytes have to be put.
function uploads.import(wanted)
	local report, there, paths = elements.report(), {}, {};
	for item in list() do there[item.key] = true; end
	for _, upload in ipairs(wanted) do
		if type(upload.id) ~= "string" or not upload.id:match("^[%w_-]+$") or upload.name:find("/", 1, true) then
			report:refuse("file " .. tostring(upload.name), "its address is not one of Prosody's");
		else
			local _, path = places(upload.id, true);
			paths[upload.id] = path;
			if report:judge(there[upload.id], true) then add(upload); end
			there[upload.id] = true;
		end
	end
	return { report = report, paths = paths };
end

return uploads;
