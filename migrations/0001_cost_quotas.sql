-- The quotas: rules on (scope, scope id, resource type, period), and how each stands.
--
-- The table may be there already, from the system that Tollgate replaces: identifiers as uuid, amounts
-- with six decimals, one quota per scope and resource, `platform` for everybody. It is taken over with its
-- rows: this file first brings such a table to our columns, then gives old and new the same constraints.

CREATE TABLE IF NOT EXISTS copilot_internal.cost_quotas (
    id                uuid           NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    scope             text           NOT NULL,
    scope_id          text           NOT NULL,
    resource_type     text           NOT NULL,
    limit_usd         numeric(20, 9) NOT NULL,
    period            text           NOT NULL DEFAULT 'day',
    current_spend_usd numeric(20, 9) NOT NULL DEFAULT 0,
    period_start      timestamptz,
    created_at        timestamptz    NOT NULL DEFAULT now(),
    updated_at        timestamptz    NOT NULL DEFAULT now()
);

-- Views over the table would forbid a change of its columns' types: they are set aside with their owners
-- rights, options and comments, and come back as they were.
CREATE TEMPORARY TABLE views_set_aside ON COMMIT DROP AS
WITH RECURSIVE dependent (view, depth) AS (
    SELECT r.ev_class, 1
    FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = 'copilot_internal.cost_quotas'::regclass
    UNION
    SELECT r.ev_class, dependent.depth + 1
    FROM dependent
    JOIN pg_depend d ON d.refobjid = dependent.view AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid AND r.ev_class <> dependent.view
)
SELECT c.oid::regclass::text AS name, c.relkind, pg_get_viewdef(c.oid) AS definition,
       pg_get_userbyid(c.relowner) AS owner, c.relacl, c.reloptions, obj_description(c.oid, 'pg_class') AS comment,
       max(dependent.depth) AS depth
FROM dependent JOIN pg_class c ON c.oid = dependent.view
GROUP BY c.oid, c.relkind, c.relowner, c.relacl, c.reloptions;

DO $$
DECLARE
    aside record;
    old   record;
BEGIN
    FOR aside IN SELECT * FROM views_set_aside ORDER BY depth DESC LOOP
        IF aside.relkind <> 'v' THEN
            RAISE EXCEPTION '% is a materialized view over cost_quotas', aside.name
                USING HINT = 'drop it, migrate, and create it again';
        END IF;
        EXECUTE format('DROP VIEW %s', aside.name);
    END LOOP;

    -- The old rules about scopes and uniqueness are narrower than ours.
    FOR old IN
        SELECT conname FROM pg_constraint
        WHERE conrelid = 'copilot_internal.cost_quotas'::regclass AND contype IN ('c', 'u')
    LOOP
        EXECUTE format('ALTER TABLE copilot_internal.cost_quotas DROP CONSTRAINT %I', old.conname);
    END LOOP;
    FOR old IN
        SELECT indexrelid::regclass AS name FROM pg_index
        WHERE indrelid = 'copilot_internal.cost_quotas'::regclass AND indisunique AND NOT indisprimary
    LOOP
        EXECUTE format('DROP INDEX %s', old.name);
    END LOOP;

    -- Columns that only the old table has must not stop an INSERT that does not know them.
    FOR old IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'copilot_internal.cost_quotas'::regclass AND attnum > 0 AND NOT attisdropped
          AND attnotnull AND NOT atthasdef AND attidentity = ''
          AND attname NOT IN ('id', 'scope', 'scope_id', 'resource_type', 'limit_usd', 'period')
    LOOP
        EXECUTE format('ALTER TABLE copilot_internal.cost_quotas ALTER COLUMN %I DROP NOT NULL', old.attname);
    END LOOP;

    -- Rows are known by a uuid.
    IF NOT EXISTS (
        SELECT FROM information_schema.columns
        WHERE table_schema = 'copilot_internal' AND table_name = 'cost_quotas' AND column_name = 'id' AND data_type = 'uuid'
    ) THEN
        FOR old IN
            SELECT conname FROM pg_constraint
            WHERE conrelid = 'copilot_internal.cost_quotas'::regclass AND contype = 'p'
        LOOP
            EXECUTE format('ALTER TABLE copilot_internal.cost_quotas DROP CONSTRAINT %I', old.conname);
        END LOOP;
        IF EXISTS (
            SELECT FROM information_schema.columns
            WHERE table_schema = 'copilot_internal' AND table_name = 'cost_quotas' AND column_name = 'id'
        ) THEN
            ALTER TABLE copilot_internal.cost_quotas RENAME COLUMN id TO replaced_id;
            ALTER TABLE copilot_internal.cost_quotas ALTER COLUMN replaced_id DROP NOT NULL;
        END IF;
        ALTER TABLE copilot_internal.cost_quotas ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY;
    END IF;
    ALTER TABLE copilot_internal.cost_quotas ALTER COLUMN id SET DEFAULT gen_random_uuid();
END
$$;

ALTER TABLE copilot_internal.cost_quotas
    ADD COLUMN IF NOT EXISTS resource_type     text           NOT NULL DEFAULT 'llm',
    ADD COLUMN IF NOT EXISTS period            text           NOT NULL DEFAULT 'day',
    ADD COLUMN IF NOT EXISTS current_spend_usd numeric(20, 9) NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS period_start      timestamptz,
    ADD COLUMN IF NOT EXISTS created_at        timestamptz    NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS updated_at        timestamptz    NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS hard_limit_usd    numeric(20, 9),
    ADD COLUMN IF NOT EXISTS held_usd          numeric(20, 9) NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS admitted_count    bigint         NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS thresholds        smallint[]     NOT NULL DEFAULT '{80,90,100}';

-- A rewrite of the table, so only where a type differs; on a new table nothing does and it is empty.
ALTER TABLE copilot_internal.cost_quotas
    ALTER COLUMN resource_type     DROP DEFAULT,
    ALTER COLUMN scope             TYPE text,
    ALTER COLUMN scope_id          TYPE text USING scope_id::text,
    ALTER COLUMN limit_usd         TYPE numeric(20, 9),
    ALTER COLUMN period            TYPE text,
    ALTER COLUMN period            SET DEFAULT 'day',
    ALTER COLUMN current_spend_usd TYPE numeric(20, 9),
    ALTER COLUMN current_spend_usd SET DEFAULT 0,
    ALTER COLUMN period_start      DROP DEFAULT,
    ALTER COLUMN period_start      DROP NOT NULL,
    ALTER COLUMN period_start      TYPE timestamptz;

UPDATE copilot_internal.cost_quotas SET scope = 'global', scope_id = '*' WHERE scope IN ('platform', 'global');
UPDATE copilot_internal.cost_quotas SET current_spend_usd = 0 WHERE current_spend_usd IS NULL;

-- What would break a constraint below is named, so that somebody can decide about it.
DO $$
DECLARE
    rows text;
BEGIN
    SELECT string_agg(format('%s %s %s %s', scope, scope_id, resource_type, limit_usd), '; ') INTO rows
    FROM copilot_internal.cost_quotas WHERE NOT (limit_usd > 0 AND limit_usd <= 1000000000);
    IF rows IS NOT NULL THEN
        RAISE EXCEPTION 'quotas with a limit that is not above 0 and at most 1000000000 USD: %', rows
            USING HINT = 'a limit of 0 means "never": write the smallest amount (0.000000001), or delete the row, then migrate again';
    END IF;
    SELECT string_agg(format('%s %s %s %s', scope, scope_id, resource_type, period), '; ') INTO rows
    FROM (
        SELECT scope, scope_id, resource_type, period FROM copilot_internal.cost_quotas
        GROUP BY 1, 2, 3, 4 HAVING count(*) > 1
    ) AS twice;
    IF rows IS NOT NULL THEN
        RAISE EXCEPTION 'more than one quota for the same scope, scope id, resource type and period: %', rows
            USING HINT = 'delete all but one of each, then migrate again';
    END IF;
END
$$;

-- Ranges have an upper bound everywhere because NUMERIC has NaN, which is above every number.
ALTER TABLE copilot_internal.cost_quotas
    ALTER COLUMN scope_id          SET NOT NULL,
    ALTER COLUMN current_spend_usd SET NOT NULL,
    ADD CONSTRAINT cost_quotas_scope_is_known CHECK (scope IN ('tenant', 'user', 'pool', 'global')),
    ADD CONSTRAINT cost_quotas_scope_id_fits_scope CHECK (
        length(scope_id) > 0 AND (scope = 'global') = (scope_id = '*') AND (scope <> 'user' OR scope_id LIKE '%_/_%')),
    ADD CONSTRAINT cost_quotas_resource_type_is_a_word CHECK (resource_type ~ '^[a-z][a-z0-9_-]{0,31}$'),
    ADD CONSTRAINT cost_quotas_period_is_known CHECK (period IN ('hour', 'day', 'week', 'month', 'lifetime')),
    ADD CONSTRAINT cost_quotas_limit_is_above_zero CHECK (limit_usd > 0 AND limit_usd <= 1000000000),
    ADD CONSTRAINT cost_quotas_hard_limit_is_above_zero CHECK (hard_limit_usd > 0 AND hard_limit_usd <= 1000000000),
    ADD CONSTRAINT cost_quotas_spend_is_an_amount CHECK (current_spend_usd >= 0 AND current_spend_usd <= 1000000000),
    ADD CONSTRAINT cost_quotas_held_is_an_amount CHECK (held_usd >= 0 AND held_usd <= 1000000000),
    ADD CONSTRAINT cost_quotas_admitted_is_a_count CHECK (admitted_count >= 0),
    ADD CONSTRAINT cost_quotas_thresholds_are_percents CHECK (1 <= ALL (thresholds) AND 1000 >= ALL (thresholds)),
    ADD CONSTRAINT cost_quotas_one_per_rule UNIQUE (scope, scope_id, resource_type, period);

-- Counters change with every admission: room on the page lets an update stay there, and the dead
-- versions are collected by count, not by share of the table. No counter is ever indexed.
ALTER TABLE copilot_internal.cost_quotas
    SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

DO $$
DECLARE
    aside   record;
    granted record;
BEGIN
    FOR aside IN SELECT * FROM views_set_aside ORDER BY depth LOOP
        EXECUTE format('CREATE VIEW %s %s AS %s', aside.name,
            'WITH (' || array_to_string(aside.reloptions, ', ') || ')', aside.definition);
        EXECUTE format('COMMENT ON VIEW %s IS %L', aside.name, aside.comment);
        FOR granted IN SELECT * FROM aclexplode(aside.relacl) LOOP
            EXECUTE format('GRANT %s ON %s TO %s', granted.privilege_type, aside.name,
                CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(granted.grantee)) END);
        END LOOP;
        EXECUTE format('ALTER VIEW %s OWNER TO %I', aside.name, aside.owner);
    END LOOP;
END
$$;

-- The first instant of the window of `period` that contains `at`. Calendar windows in UTC; weeks start on Monday.
CREATE FUNCTION copilot_internal.window_start(period text, at timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$
    SELECT CASE period
        WHEN 'lifetime' THEN timestamptz '1970-01-01 00:00:00+00'
        ELSE date_trunc(period, at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
    END
$$;

-- Closed windows: what each quota came to. Late costs are still added to the window where they belong.
CREATE TABLE copilot_internal.cost_quota_periods (
    quota_id       uuid           NOT NULL,
    window_start   timestamptz    NOT NULL,
    scope          text           NOT NULL,
    scope_id       text           NOT NULL,
    resource_type  text           NOT NULL,
    period         text           NOT NULL,
    limit_usd      numeric(20, 9) NOT NULL,
    spend_usd      numeric(20, 9) NOT NULL,
    held_usd       numeric(20, 9) NOT NULL DEFAULT 0,
    admitted_count bigint         NOT NULL DEFAULT 0,
    PRIMARY KEY (quota_id, window_start),
    CONSTRAINT cost_quota_periods_spend_is_an_amount CHECK (spend_usd >= 0 AND spend_usd <= 1000000000),
    CONSTRAINT cost_quota_periods_held_is_an_amount CHECK (held_usd >= 0 AND held_usd <= 1000000000)
);
CREATE INDEX cost_quota_periods_by_rule
    ON copilot_internal.cost_quota_periods (scope, scope_id, resource_type, period, window_start DESC);
