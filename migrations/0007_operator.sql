-- What operators do: temporary limits, and who changed what.

-- A temporary limit holds instead of `limit_usd` until `override_until`, and then is no more, whether or not anybody has
-- taken it away: which limit holds is a function of time, as a window is. `limit_usd` stays what it will be again.
ALTER TABLE copilot_internal.cost_quotas
    ADD COLUMN override_limit_usd numeric(20, 9),
    ADD COLUMN override_until     timestamptz,
    ADD COLUMN override_reason    text,
    ADD CONSTRAINT cost_quotas_override_is_above_zero CHECK (override_limit_usd > 0 AND override_limit_usd <= 1000000000),
    ADD CONSTRAINT cost_quotas_override_has_an_end CHECK ((override_limit_usd IS NULL) = (override_until IS NULL));
-- No counter is in it: updates of what is spent stay on their page.
CREATE INDEX cost_quotas_by_override_end ON copilot_internal.cost_quotas (override_until) WHERE override_until IS NOT NULL;

-- The limit that holds at `at`. The host has the same rule in `QuotaRow::at`: change both.
CREATE FUNCTION copilot_internal.limit_at(
    limit_usd numeric, override_limit_usd numeric, override_until timestamptz, at timestamptz) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN at < override_until THEN override_limit_usd ELSE limit_usd END $$;

-- Every change of a rule or a tenant: by the host's routes and commands, which say who and why, and by anybody's SQL.
CREATE TABLE copilot_internal.audit (
    id        bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL,
    actor     text        NOT NULL,
    action    text        NOT NULL,
    subject   text        NOT NULL,
    tenant_id text,
    reason    text,
    before    json,
    after     json,
    CONSTRAINT audit_says_what_changed CHECK (before IS NOT NULL OR after IS NOT NULL)
);
CREATE INDEX audit_by_tenant ON copilot_internal.audit (tenant_id, id DESC);

-- An amount as answers write it: at least two decimals, and no more than it needs.
CREATE FUNCTION copilot_internal.usd(amount numeric) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT round(amount, greatest(2, min_scale(amount))) $$;

CREATE FUNCTION copilot_internal.quota_as_json(q copilot_internal.cost_quotas) RETURNS json
    LANGUAGE sql STABLE AS
$$
    SELECT CASE WHEN q.id IS NOT NULL THEN json_build_object(
        'limitUsd', copilot_internal.usd(q.limit_usd), 'hardLimitUsd', copilot_internal.usd(q.hard_limit_usd),
        'thresholds', q.thresholds, 'currentSpendUsd', copilot_internal.usd(q.current_spend_usd),
        'override', CASE WHEN q.override_until IS NOT NULL THEN json_build_object(
            'limitUsd', copilot_internal.usd(q.override_limit_usd),
            'until', to_char(q.override_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
            'reason', q.override_reason) END) END
$$;

-- The host says who acts in settings of its transaction; without them it was somebody's SQL, at the database's time.
CREATE FUNCTION copilot_internal.write_audit(
    action text, subject text, tenant_id text, before json, after json) RETURNS void
    LANGUAGE sql VOLATILE AS
$$
    INSERT INTO copilot_internal.audit (at, actor, action, subject, tenant_id, reason, before, after)
    SELECT coalesce(nullif(current_setting('tollgate.at', true), '')::timestamptz, now()),
           coalesce(nullif(current_setting('tollgate.actor', true), ''), 'sql:' || session_user),
           action, subject, tenant_id, nullif(current_setting('tollgate.reason', true), ''), before, after
    WHERE before::text IS DISTINCT FROM after::text
$$;

-- With the rights of its owner: whoever may change a quota need not be able to write the audit table.
CREATE FUNCTION copilot_internal.audit_quota() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
DECLARE
    was  copilot_internal.cost_quotas := CASE WHEN TG_OP = 'INSERT' THEN NULL ELSE OLD END;
    is_  copilot_internal.cost_quotas := CASE WHEN TG_OP = 'DELETE' THEN NULL ELSE NEW END;
    rule copilot_internal.cost_quotas := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    PERFORM copilot_internal.write_audit(
        CASE
            WHEN TG_OP = 'INSERT' THEN 'quota.created'
            WHEN TG_OP = 'DELETE' THEN 'quota.deleted'
            WHEN was.override_until IS NOT DISTINCT FROM is_.override_until
                AND was.override_limit_usd IS NOT DISTINCT FROM is_.override_limit_usd THEN 'quota.changed'
            WHEN is_.override_until IS NULL THEN 'quota.override_ended'
            ELSE 'quota.overridden'
        END,
        format('%s/%s/%s/%s', rule.scope, rule.scope_id, rule.resource_type, rule.period),
        CASE rule.scope
            WHEN 'tenant' THEN rule.scope_id
            WHEN 'user' THEN regexp_replace(rule.scope_id, '/[^/]*$', '')
        END,
        copilot_internal.quota_as_json(was), copilot_internal.quota_as_json(is_));
    RETURN NULL;
END
$$;
-- Columns that a request changes are not among them: a request pays nothing for this.
CREATE TRIGGER audit_quota
    AFTER INSERT OR DELETE OR UPDATE OF limit_usd, hard_limit_usd, thresholds, override_limit_usd, override_until, override_reason
    ON copilot_internal.cost_quotas FOR EACH ROW EXECUTE FUNCTION copilot_internal.audit_quota();

CREATE FUNCTION copilot_internal.audit_tenant() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
DECLARE
    was json := CASE WHEN TG_OP <> 'INSERT' THEN json_build_object('tier', OLD.tier, 'pool', OLD.pool) END;
    is_ json := CASE WHEN TG_OP <> 'DELETE' THEN json_build_object('tier', NEW.tier, 'pool', NEW.pool) END;
    id  text := CASE WHEN TG_OP = 'DELETE' THEN OLD.tenant_id ELSE NEW.tenant_id END;
BEGIN
    PERFORM copilot_internal.write_audit(
        CASE TG_OP WHEN 'INSERT' THEN 'tenant.created' WHEN 'DELETE' THEN 'tenant.deleted' ELSE 'tenant.changed' END,
        id, id, was, is_);
    RETURN NULL;
END
$$;
CREATE TRIGGER audit_tenant
    AFTER INSERT OR DELETE OR UPDATE ON copilot_internal.tenants
    FOR EACH ROW EXECUTE FUNCTION copilot_internal.audit_tenant();
