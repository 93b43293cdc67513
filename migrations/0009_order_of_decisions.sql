-- One index of the decision log does the work of two: it was as dear to write as the rows themselves, and every reservation
-- writes one. Lists, replays and people's SQL read by time; who looks up an id knows its time, since that is in it.
ALTER TABLE copilot_internal.decisions DROP CONSTRAINT decisions_once_per_id;
ALTER TABLE copilot_internal.decisions ADD CONSTRAINT decisions_once_per_id PRIMARY KEY (decided_at, id);
DROP INDEX copilot_internal.decisions_by_time;
