-- After the migrations, in the same transaction: what was set aside comes back.

-- The old table may have allowed rows without these; `check.sql` has seen that there are none.
ALTER TABLE copilot_internal.cost_quotas
    ALTER COLUMN scope         SET NOT NULL,
    ALTER COLUMN resource_type SET NOT NULL,
    ALTER COLUMN limit_usd     SET NOT NULL,
    ALTER COLUMN period        SET NOT NULL;

-- A policy was written for ids that were `uuid`, and for `platform` with no id. What it says about `platform` is always
-- changed: it would apply as it stands, and mean no row. Types are changed only where it does not apply without that.
--
-- A permissive policy that does not come back takes access away and gives none; it is reported. Without a restrictive one
-- people would see what was hidden from them: nothing is migrated then.
DO $$
DECLARE
    -- What gives an id without a cast that could be changed: `auth.uid()`, `( SELECT auth.uid() AS uid)`.
    a_call   constant text := '[\w."]+\([^()]*\)|\( SELECT [\w."]+\([^()]*\) AS \w+\)';
    aside    record;
    col      text;
    a_scope  text;
    an_id    text;
    rule     text;
    as_text  text;
    way      text;
    reason   text;
BEGIN
    FOR aside IN SELECT * FROM policies_set_aside LOOP
        -- A column of the table, as PostgreSQL writes it: `scope`, `(scope)::text`; where a policy asks other tables as well, and
        -- in policies of those, `cost_quotas.scope` or `q.scope`.
        col := format('(?<![\w."])(?:(?:%s)\.)%s',
            concat_ws('|', 'cost_quotas', substring(aside.rule FROM '\mcost_quotas ([a-z_]\w*)')),
            CASE WHEN aside.on_table = 'copilot_internal.cost_quotas' THEN '?' END);
        a_scope := col || 'scope\)?(?:::text)?';
        an_id := col || 'scope_id';
        -- Of a type that is no more, if it was an enum.
        rule := regexp_replace(aside.rule, '(''(?:platform|tenant|user)'')::(?:character varying|[\w."]+)', '\1::text', 'g');
        rule := regexp_replace(rule, '(' || a_scope || ' (?:=|<>) )''platform''', '\1''global''', 'g');
        rule := regexp_replace(rule, '''platform''(::text (?:=|<>) \(?' || a_scope || ')', '''global''\1', 'g');
        rule := regexp_replace(rule, '(' || a_scope || ' (?:= ANY|<> ALL) \(\(?ARRAY\[[^]]*)''platform''', '\1''global''', 'g');
        rule := regexp_replace(rule, '(' || an_id || ') IS NULL', '\1 = ''*''::text', 'g');
        rule := regexp_replace(rule, '(' || an_id || ') IS NOT NULL', '\1 <> ''*''::text', 'g');
        as_text := regexp_replace(rule, '(' || an_id || ' (?:=|<>) )(' || a_call || ')(?!::)', '\1(\2)::text', 'g');
        as_text := regexp_replace(as_text, '(' || a_call || ')( (?:=|<>) ' || an_id || ')', '(\1)::text\2', 'g');

        -- What else compares with `platform` may mean anything.
        reason := CASE WHEN rule LIKE '%''platform''%' THEN 'it says ''platform'' of something that may not be the scope' END;
        IF reason IS NULL THEN
            FOREACH way IN ARRAY ARRAY[rule, as_text, regexp_replace(rule, '::uuid\M', '::text', 'g'),
                                       regexp_replace(as_text, '::uuid\M', '::text', 'g')] LOOP
                BEGIN
                    EXECUTE aside.head || way;
                    EXECUTE format('COMMENT ON POLICY %I ON %s IS %L', aside.name, aside.on_table, aside.comment);
                    reason := NULL;
                    EXIT;
                EXCEPTION WHEN others THEN
                    reason := coalesce(reason, SQLERRM);
                END;
            END LOOP;
        END IF;
        IF reason IS NOT NULL AND NOT aside.is_permissive THEN
            RAISE EXCEPTION 'the restrictive policy % on % does not fit the table that Tollgate makes of it: %. It is: %',
                    aside.name, aside.on_table, reason, aside.head || aside.rule
                USING HINT = 'revoke what it restricts, drop it, start again, create it for ids as text and the scope ''global'', and grant again';
        END IF;
        UPDATE policies_set_aside SET lost_because = reason WHERE name = aside.name AND on_table = aside.on_table;
    END LOOP;
END
$$;
