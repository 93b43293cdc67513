-- Denials and failures are looked for by their outcome or tenant, and may be a few among millions.
CREATE INDEX decisions_not_allowed ON copilot_internal.decisions (outcome, decided_at DESC) WHERE outcome <> 'allowed';
CREATE INDEX decisions_not_allowed_by_tenant ON copilot_internal.decisions (tenant_id, decided_at DESC)
    WHERE outcome <> 'allowed';

-- Drops a day, if it is still one of the log's: what somebody has detached meanwhile is his. First the lock that dropping
-- takes anyway, so that nobody can detach it between the look and the end.
CREATE OR REPLACE FUNCTION copilot_internal.drop_day_of_decisions(day date) RETURNS void
    LANGUAGE plpgsql AS
$$
DECLARE
    partition regclass := to_regclass(format('copilot_internal.%I', 'decisions_' || to_char(day, 'YYYY_MM_DD')));
BEGIN
    LOCK TABLE ONLY copilot_internal.decisions IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = partition AND inhparent = 'copilot_internal.decisions'::regclass) THEN
        EXECUTE format('DROP TABLE %s', partition);
    END IF;
END
$$;
