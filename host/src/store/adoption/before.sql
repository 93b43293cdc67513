-- What the first migration does not know of the replaced system's `cost_quotas`, done before it in the same transaction.

-- A quota warned at one share of its limit (0.50 is 50 %). That takes the place of the first of our three defaults, and the
-- two later ones stay: whoever was told at half of it wants to hear of its end too.
ALTER TABLE copilot_internal.cost_quotas
    ADD COLUMN IF NOT EXISTS thresholds smallint[] NOT NULL DEFAULT '{80,90,100}';
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = 'copilot_internal.cost_quotas'::regclass AND attname = 'warning_threshold' AND NOT attisdropped
    ) THEN
        UPDATE copilot_internal.cost_quotas
        SET thresholds = ARRAY(
            SELECT DISTINCT percent FROM unnest(ARRAY[round(warning_threshold * 100)::smallint, 90, 100]) AS percent
            ORDER BY percent)
        WHERE round(warning_threshold * 100) BETWEEN 1 AND 1000;
    END IF;
END
$$;

-- Row-level-security policies forbid a change of the types of columns that they name, also those of other tables that look
-- into this one. They are set aside, and `after.sql` brings them back.
CREATE TEMPORARY TABLE policies_set_aside ON COMMIT DROP AS
SELECT p.polname AS name, format('%I.%I', n.nspname, c.relname) AS on_table, p.polpermissive AS is_permissive,
       obj_description(p.oid, 'pg_policy') AS comment,
       format('CREATE POLICY %I ON %I.%I AS %s FOR %s TO %s', p.polname, n.nspname, c.relname,
           CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
           CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
           (SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)) END, ', ')
            FROM unnest(p.polroles) AS role)) AS head,
       concat(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
              ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')') AS rule,
       NULL::text AS lost_because
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.polrelid = 'copilot_internal.cost_quotas'::regclass
   OR EXISTS (
       SELECT FROM pg_depend d
       WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refobjid = 'copilot_internal.cost_quotas'::regclass);

DO $$
DECLARE
    aside record;
BEGIN
    FOR aside IN SELECT * FROM policies_set_aside LOOP
        EXECUTE format('DROP POLICY %I ON %s', aside.name, aside.on_table);
    END LOOP;
END
$$;
