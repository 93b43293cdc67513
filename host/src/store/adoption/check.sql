-- May `cost_quotas`, which no migration of ours has touched yet, be taken over? Nothing is changed here: whatever stands
-- in the way is named, with what to do about it. The first migration would stop at most of this too, in words about
-- constraints that nobody outside has heard of.

DO $$
DECLARE
    found   pg_class%ROWTYPE;
    missing text;
    wrong   text;
    advice  text;
BEGIN
    SELECT * INTO found FROM pg_class WHERE oid = 'copilot_internal.cost_quotas'::regclass;
    SELECT string_agg(name, ', ') INTO missing
    FROM unnest(ARRAY['scope', 'scope_id', 'limit_usd']) AS name
    WHERE NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = found.oid AND attname = name AND NOT attisdropped);
    IF found.relkind <> 'r' OR missing IS NOT NULL THEN
        RAISE EXCEPTION 'copilot_internal.cost_quotas is no table of the replaced system: %',
                coalesce('it has no column ' || missing, 'it is no ordinary table')
            USING HINT = 'rename it, or move it to another schema, then start again';
    END IF;

    -- Whoever sees some rows only would take over those, and find no quota where there is one ever after.
    IF row_security_active(found.oid) THEN
        RAISE EXCEPTION 'row-level security hides rows of copilot_internal.cost_quotas from the role %', current_user
            USING HINT = format('ALTER TABLE copilot_internal.cost_quotas NO FORCE ROW LEVEL SECURITY, or ALTER ROLE %I BYPASSRLS, then start again', current_user);
    END IF;

    -- As JSON, since neither the columns nor their types are known.
    WITH quota AS (
        SELECT q.ctid AS place, to_jsonb(q) AS row FROM copilot_internal.cost_quotas AS q
    ), known AS (
        SELECT place, row ->> 'scope' AS scope, row ->> 'scope_id' AS scope_id,
               row ->> 'scope' IN ('platform', 'global') AS for_all,
               CASE WHEN row ? 'resource_type' THEN row ->> 'resource_type' ELSE 'llm' END AS resource_type,
               CASE WHEN row ? 'period' THEN row ->> 'period' ELSE 'day' END AS period,
               row ->> 'limit_usd' AS limit_usd, row ->> 'current_spend_usd' AS spend_usd
        FROM quota
    ), problem AS (
        SELECT known.*, said.what, said.advice
        FROM known CROSS JOIN LATERAL (VALUES
            (scope NOT IN ('tenant', 'user', 'pool', 'platform', 'global') OR scope IS NULL,
             'its scope is unknown', 'scopes are tenant, user, pool and platform: correct or delete the row'),
            (NOT for_all AND coalesce(scope_id, '') IN ('', '*'),
             'it has no scope id', 'say whose quota it is, or delete the row'),
            (scope = 'user' AND scope_id NOT LIKE '%_/_%',
             'a user is written tenant/user here',
             'note the row, delete it, and after the start: tollgate quota set user TENANT/USER TYPE PERIOD USD'),
            (resource_type !~ '^[a-z][a-z0-9_-]{0,31}$' OR resource_type IS NULL,
             'its resource type is no word',
             'a resource type is a letter, then up to 31 letters, digits, - and _, all small: correct or delete the row'),
            (period NOT IN ('hour', 'day', 'week', 'month', 'lifetime') OR period IS NULL,
             'its period is unknown', 'periods are hour, day, week, month and lifetime: correct or delete the row'),
            (NOT coalesce(round(limit_usd::numeric, 9) > 0 AND limit_usd::numeric <= 1000000000, false),
             'its limit is ' || coalesce(limit_usd, 'null'),
             'a limit is above 0 and at most 1000000000 USD; one of 0 means "never": write the smallest amount (0.000001), or delete the row'),
            (NOT coalesce(spend_usd::numeric BETWEEN 0 AND 1000000000, true),
             'its spend is ' || spend_usd,
             'what is spent is an amount from 0 to 1000000000 USD: correct current_spend_usd')
        ) AS said (holds, what, advice)
        WHERE said.holds
    ), quotas AS (
        SELECT format('%s %s %s %s (%s)', scope, coalesce(scope_id, '-'), resource_type, period, string_agg(what, ', ')) AS quota,
               row_number() OVER (ORDER BY scope, scope_id, resource_type, period, place) AS n, count(*) OVER () AS of
        FROM problem GROUP BY place, scope, scope_id, resource_type, period
    )
    SELECT string_agg(quota, '; ' ORDER BY n) || CASE WHEN max(of) > 10 THEN format('; and %s more', max(of) - 10) ELSE '' END,
           (SELECT string_agg(DISTINCT problem.advice, '; ') FROM problem)
    INTO wrong, advice
    FROM quotas WHERE n <= 10;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'quotas of copilot_internal.cost_quotas that cannot be taken over: %', wrong
            USING HINT = advice || '; then start again';
    END IF;
END
$$;
