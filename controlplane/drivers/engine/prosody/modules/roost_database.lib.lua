-- The SQLite file that mod_storage_sql keeps the archives in: Roost's own statements, on its connection.
--
-- A message's place in its archive is its sort_id, a number that all archives share. New ones get the next number, so
-- what is imported can only be put between them if there is room: roost_archive makes it.

local modulemanager = require "core.modulemanager";

local host = module:get_option_string("roost_host");

local database = {};
local connection;

-- SQLite changes these settings outside of a transaction only.
local function pragma(statement)
	connection.conn:commit();
	connection.conn:autocommit(true);
	local prepared = assert(connection.conn:prepare("PRAGMA " .. statement));
	assert(prepared:execute());
	local row = prepared:fetch();
	prepared:close();
	connection.conn:autocommit(false);
	return row and row[1];
end

local function prepare()
	-- With a log, writing waits for no disk: a power failure costs the last messages and never the file, as with the
	-- files of mod_storage_internal. What is deleted is overwritten.
	pragma("journal_mode = WAL");
	pragma("synchronous = NORMAL");
	pragma("secure_delete = ON");
	must(connection:transaction(function ()
		local has_stamp = false;
		for row in connection:select([[PRAGMA table_info("prosodyarchive")]]) do
			has_stamp = has_stamp or row[2] == "roost_stamp";
		end
		if not has_stamp then connection:update([[ALTER TABLE "prosodyarchive" ADD COLUMN "roost_stamp" TEXT]]); end
		connection:update([[CREATE INDEX IF NOT EXISTS "roost_expiry" ON "prosodyarchive" ("host", "store", "when")]]);
	end));
end

local function connected()
	if connection and connection.conn then return connection; end
	must(modulemanager.is_loaded(host, "storage_sql") or module:context(host):open_store("archive", "archive"));
	local _, found = next(module:shared("/*/sql/connections"));
	must(found, "the archive's database is not open");
	connection = found;
	must(connection:connect());
	prepare();
	return connection;
end

-- Rows as arrays, in the order of the query.
function database.rows(query, ...)
	local found = {};
	for row in connected():select(query, ...) do table.insert(found, row); end
	return found;
end

-- How many rows were changed.
function database.change(statement, ...)
	return connected():update(statement, ...):affected();
end

-- All or nothing of what it does; nobody else has a turn meanwhile, so it must not wait.
function database.transaction(callable, ...)
	local ok, value = connected():transaction(callable, ...);
	if not ok then refuse("the archive's database: " .. tostring(value)); end
	return value;
end

-- What was deleted is not in the log any more either.
function database.forget()
	connected();
	return pragma("wal_checkpoint(TRUNCATE)");
end

return database;
