-- What a policy saw is kept as it was written: taking it apart for every row cost as much as the rest of the row, and
-- only who reads it needs the parts.
ALTER TABLE copilot_internal.decisions ALTER COLUMN facts TYPE json USING facts::json;
