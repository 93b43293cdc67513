-- What a policy saw is JSON as text: `facts::json` takes it apart for whoever reads it. The type `json` reads every letter
-- when a row is written, and that took longer than the rest of writing it.
ALTER TABLE copilot_internal.decisions ALTER COLUMN facts TYPE text USING facts::text;
