-- What mod_roost_control does by itself: archives that are in files of mod_storage_internal move into the database, and
-- what is older than an archive keeps goes, a portion at a time. (mod_mam does it once a day and in one go.)

local async = require "util.async";
local datamanager = require "core.storagemanager".olddm;
local archives = module:require "roost_archive";
local database = module:require "roost_database";
local lists = module:require "roost_lists";

local host = module:get_option_string("roost_host");
local muc_host = module:get_option_string("roost_muc_host");
local first_s, every_s, portion = 20, 3600, 500;

local kinds = {
	{ host = host, store = "archive", keeps = "archive_expires_after" };
	{ host = muc_host, store = "muc_log", keeps = "muc_log_expires_after", is_room = true };
};

-- It may be ended at any moment: what is there already is not put there again.
local function take_over(kind)
	local names = {};
	for name in datamanager.users(kind.host, kind.store, "list") do table.insert(names, name); end
	for _, name in ipairs(names) do
		local path = datamanager.getpath(name, kind.host, kind.store, "list");
		local place = { name = name, host = kind.host, store = kind.store, is_room = kind.is_room,
			jid = name .. "@" .. kind.host };
		local made = archives.take_over(place, lists.each(path));
		must(os.remove(path));
		module:log("info", "%d messages of %s moved into the database", made, path);
	end
	-- Which days had messages of whom; the database knows it by itself.
	local store, days = kind.store .. "_cleanup", {};
	for day in datamanager.users(kind.host, store) do table.insert(days, day); end
	for _, day in ipairs(days) do must(datamanager.store(day, kind.host, store, nil)); end
end

local function expire(kind)
	local days = tonumber((module:context(kind.host):get_option_string(kind.keeps, ""):match("^(%d+)d$")));
	if not days then return 0; end
	local before, total, whose = os.time() - days * 86400, 0, {};
	local old = [["sort_id" IN (SELECT "sort_id" FROM "prosodyarchive" WHERE "host"=? AND "store"=? AND "when"<?
		ORDER BY "when", "sort_id" LIMIT ?)]];
	repeat
		local gone = database.transaction(function ()
			for _, row in ipairs(database.rows([[SELECT DISTINCT "user" FROM "prosodyarchive" WHERE ]] .. old, kind.host,
				kind.store, before, portion)) do
				whose[row[1]] = true;
			end
			return database.change([[DELETE FROM "prosodyarchive" WHERE ]] .. old, kind.host, kind.store, before, portion);
		end);
		total = total + gone;
		async.sleep(0);
	until gone < portion;
	for name in pairs(whose) do archives.count_anew({ name = name, host = kind.host, store = kind.store }); end
	return total;
end

-- How many messages were too old.
local function expire_all()
	local total = 0;
	for _, kind in ipairs(kinds) do total = total + expire(kind); end
	if total > 0 then database.forget(); end
	return total;
end

local function in_turn(callable)
	async.runner(function ()
		local ok, err = pcall(callable);
		if not ok then module:log("error", "%s", type(err) == "table" and err.text or err); end
	end):run(true);
end

module:hook("server-started", function ()
	in_turn(function ()
		for _, kind in ipairs(kinds) do take_over(kind); end
	end);
	module:add_timer(first_s, function ()
		in_turn(expire_all);
		return every_s;
	end);
end);

return {
	expire_archives = expire_all;
};
