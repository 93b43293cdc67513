-- The replaced system's database, as its migrations have made it, with rows.
CREATE SCHEMA auth;
CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS
$$ SELECT coalesce(nullif(current_setting('request.jwt', true), ''), '{}')::jsonb $$;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT (auth.jwt() ->> 'sub')::uuid $$;
-- Roles belong to all databases of the cluster: another test may be creating them.
DO $$ BEGIN CREATE ROLE service_role; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE authenticated; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;

CREATE SCHEMA copilot_internal;
CREATE TABLE copilot_internal.cost_quotas (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    scope text NOT NULL CHECK (scope IN ('platform', 'tenant', 'user')),
    scope_id uuid,
    limit_usd numeric(12,6) NOT NULL,
    period text NOT NULL CHECK (period IN ('hour', 'day', 'week', 'month')),
    current_spend_usd numeric(12,6) NOT NULL DEFAULT 0,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    warning_threshold numeric(3,2) CHECK (warning_threshold >= 0 AND warning_threshold <= 1),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT unique_quota_scope UNIQUE (scope, scope_id)
);
CREATE INDEX idx_cost_quotas_scope ON copilot_internal.cost_quotas (scope);
CREATE INDEX idx_cost_quotas_scope_id ON copilot_internal.cost_quotas (scope_id);
CREATE FUNCTION copilot_internal.update_cost_quota_timestamp() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.updated_at = now(); RETURN NEW; END; $$;
CREATE TRIGGER update_cost_quotas_timestamp BEFORE UPDATE ON copilot_internal.cost_quotas
    FOR EACH ROW EXECUTE FUNCTION copilot_internal.update_cost_quota_timestamp();
ALTER TABLE copilot_internal.cost_quotas
    ADD COLUMN resource_type text NOT NULL DEFAULT 'llm' CHECK (resource_type IN ('llm', 'e2b', 'all'));
ALTER TABLE copilot_internal.cost_quotas DROP CONSTRAINT unique_quota_scope;
ALTER TABLE copilot_internal.cost_quotas ADD CONSTRAINT unique_quota_scope UNIQUE (scope, scope_id, resource_type);
CREATE INDEX idx_cost_quotas_resource_type ON copilot_internal.cost_quotas (resource_type);
GRANT USAGE ON SCHEMA copilot_internal, auth TO authenticated, service_role;
GRANT SELECT ON copilot_internal.cost_quotas TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON copilot_internal.cost_quotas TO service_role;
INSERT INTO copilot_internal.cost_quotas
    (scope, scope_id, resource_type, limit_usd, period, period_start, period_end, current_spend_usd, warning_threshold)
SELECT scope, id, resource_type, limit_usd, period, date_trunc(period, now(), 'UTC'),
       date_trunc(period, now(), 'UTC') + ('1 ' || period)::interval, spend, threshold
FROM (VALUES
    ('tenant', '11111111-1111-1111-1111-111111111111'::uuid, 'llm', 50, 'day', 48.5, 0.50),
    ('tenant', '11111111-1111-1111-1111-111111111111', 'e2b', 10, 'day', 0, 0.95),
    ('tenant', '22222222-2222-2222-2222-222222222222', 'llm', 20, 'week', 0, 0),
    ('platform', NULL, 'llm', 5000, 'month', 12, 0.80),
    ('platform', NULL, 'e2b', 1000, 'month', 12, NULL)) AS quota (scope, id, resource_type, limit_usd, period, spend, threshold);
ALTER TABLE copilot_internal.cost_quotas ENABLE ROW LEVEL SECURITY;
CREATE POLICY cost_quotas_service_role_all ON copilot_internal.cost_quotas
    FOR ALL TO service_role USING (true) WITH CHECK (true);
CREATE POLICY cost_quotas_tenant_select ON copilot_internal.cost_quotas FOR SELECT TO authenticated
    USING (scope = 'platform' OR (scope = 'tenant' AND scope_id = (auth.jwt() ->> 'tenant_id')::uuid)
           OR (scope = 'user' AND scope_id = (auth.jwt() ->> 'sub')::uuid));
