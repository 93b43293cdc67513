-- The decision log by days (UTC): what is too old is dropped as a table, not searched for and deleted row by row.
--
-- The key is `decided_at`, since nearly everybody who reads the log asks for a time: lists, replays, the log view, people's
-- SQL. An id is a UUID of version 7 of that same time, so whoever looks one up asks the one day that it names. A key on the
-- id would cut the days alike, but every statement on `decided_at` would search them all. Two rows of one id at two times
-- are thereby possible; the host never makes them, and a repeated insert has the time of the first.
ALTER TABLE copilot_internal.decisions RENAME TO decisions_before_days;

CREATE TABLE copilot_internal.decisions (
    id            uuid           NOT NULL,
    decided_at    timestamptz    NOT NULL,
    tenant_id     text           NOT NULL,
    user_id       text,
    resource_type text           NOT NULL,
    estimate_usd  numeric(20, 9) NOT NULL,
    request_id    text,
    outcome       text           NOT NULL,
    code          text,
    reason        text,
    quota_id      uuid,
    policy_name   text           NOT NULL,
    policy_digest text           NOT NULL,
    facts         json           NOT NULL,
    CONSTRAINT decisions_once_per_id PRIMARY KEY (id, decided_at),
    CONSTRAINT decisions_outcome_is_known CHECK (outcome IN ('allowed', 'denied', 'unenforced', 'failed'))
) PARTITION BY RANGE (decided_at);

-- Rows of days that have no partition: late ones, and those of a host whose clock has jumped. No insert fails for want of one.
CREATE TABLE copilot_internal.decisions_default PARTITION OF copilot_internal.decisions DEFAULT;

-- Makes the partition of a day, with the rows of that day which are in the default one. Inserts elsewhere go on meanwhile:
-- attaching locks the log against other changes of its shape only.
CREATE FUNCTION copilot_internal.make_day_of_decisions(day date) RETURNS void
    LANGUAGE plpgsql AS
$$
DECLARE
    partition text        := 'decisions_' || to_char(day, 'YYYY_MM_DD');
    first     timestamptz := day::timestamp AT TIME ZONE 'UTC';
    next      timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
    IF to_regclass('copilot_internal.' || partition) IS NOT NULL THEN
        RETURN;
    END IF;
    LOCK TABLE copilot_internal.decisions_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE copilot_internal.%I (LIKE copilot_internal.decisions INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
        partition);
    EXECUTE format(
        'WITH moved AS (DELETE FROM copilot_internal.decisions_default WHERE decided_at >= %L AND decided_at < %L RETURNING *)
         INSERT INTO copilot_internal.%I SELECT * FROM moved', first, next, partition);
    EXECUTE format('ALTER TABLE copilot_internal.decisions ATTACH PARTITION copilot_internal.%I FOR VALUES FROM (%L) TO (%L)',
        partition, first, next);
END
$$;

-- Drops a day with its rows. This locks the whole log for the moment that it takes: who calls it sets a short `lock_timeout`.
CREATE FUNCTION copilot_internal.drop_day_of_decisions(day date) RETURNS void
    LANGUAGE plpgsql AS
$$
BEGIN
    EXECUTE format('DROP TABLE IF EXISTS copilot_internal.%I', 'decisions_' || to_char(day, 'YYYY_MM_DD'));
END
$$;

-- Days that have rows get their partitions here: those of the last 90 before the newest row, so that years of rows do not
-- take more locks than one transaction has. Older rows stay in the default partition until they are too old.
DO $$
DECLARE
    old record;
BEGIN
    FOR old IN
        SELECT DISTINCT (decided_at AT TIME ZONE 'UTC')::date AS day FROM copilot_internal.decisions_before_days
        WHERE decided_at > (SELECT max(decided_at) - interval '90 days' FROM copilot_internal.decisions_before_days)
    LOOP
        PERFORM copilot_internal.make_day_of_decisions(old.day);
    END LOOP;
END
$$;

INSERT INTO copilot_internal.decisions
    (id, decided_at, tenant_id, user_id, resource_type, estimate_usd, request_id, outcome, code, reason, quota_id,
     policy_name, policy_digest, facts)
SELECT id, decided_at, tenant_id, user_id, resource_type, estimate_usd, request_id, outcome, code, reason, quota_id,
       policy_name, policy_digest, facts
FROM copilot_internal.decisions_before_days;

-- Who owns and who may read the log stays as it was, and so do views over it: each is defined again in its place, with its
-- owner, its rights and whatever is built on it.
DO $$
DECLARE
    old       pg_class%ROWTYPE;
    granted   record;
    dependent record;
BEGIN
    SELECT * INTO old FROM pg_class WHERE oid = 'copilot_internal.decisions_before_days'::regclass;
    FOR granted IN SELECT * FROM aclexplode(old.relacl) WHERE grantee <> old.relowner LOOP
        EXECUTE format('GRANT %s ON copilot_internal.decisions TO %s', granted.privilege_type,
            CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(granted.grantee)) END);
    END LOOP;
    FOR dependent IN
        SELECT DISTINCT c.oid::regclass::text AS name, c.relkind, c.reloptions, pg_get_viewdef(c.oid) AS definition
        FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class
        WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = old.oid
    LOOP
        IF dependent.relkind <> 'v' THEN
            RAISE EXCEPTION '% is a materialized view over decisions', dependent.name
                USING HINT = 'drop it, migrate, and create it again';
        END IF;
        EXECUTE format('CREATE OR REPLACE VIEW %s %s AS %s', dependent.name,
            'WITH (' || array_to_string(dependent.reloptions, ', ') || ')',
            replace(dependent.definition, 'decisions_before_days', 'decisions'));
    END LOOP;
    FOR dependent IN
        SELECT oid::regclass AS name FROM pg_class
        WHERE relnamespace = 'copilot_internal'::regnamespace AND relkind IN ('r', 'p') AND relowner <> old.relowner
          AND (oid = 'copilot_internal.decisions'::regclass
               OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'copilot_internal.decisions'::regclass))
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %I', dependent.name, pg_get_userbyid(old.relowner));
    END LOOP;
END
$$;
DROP TABLE copilot_internal.decisions_before_days;

CREATE INDEX decisions_by_tenant ON copilot_internal.decisions (tenant_id, decided_at DESC);
CREATE INDEX decisions_by_time ON copilot_internal.decisions (decided_at DESC);

-- Disagreements go with the decisions that they are about.
CREATE INDEX policy_disagreements_by_time ON copilot_internal.policy_disagreements (decided_at);
