-- Who the tenants are, what was spent, what was decided, what crossed a threshold.

-- A tenant without a row is served by the standard policy and is in no pool.
CREATE TABLE copilot_internal.tenants (
    tenant_id  text        NOT NULL PRIMARY KEY,
    tier       text,
    pool       text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenants_tenant_id_is_an_id CHECK (length(tenant_id) BETWEEN 1 AND 128 AND tenant_id !~ '[[:cntrl:]]'),
    CONSTRAINT tenants_tier_is_a_word CHECK (tier ~ '^[a-z][a-z0-9_-]{0,31}$'),
    CONSTRAINT tenants_pool_is_an_id CHECK (length(pool) BETWEEN 1 AND 128 AND pool !~ '[[:cntrl:]]')
);
CREATE INDEX tenants_by_pool ON copilot_internal.tenants (pool) WHERE pool IS NOT NULL;

-- Costs that were recorded without a reservation. `body` is a digest of what the caller sent: the same
-- cost id with another body is a conflict, not a repetition.
CREATE TABLE copilot_internal.cost_records (
    id            uuid           NOT NULL PRIMARY KEY,
    tenant_id     text           NOT NULL,
    cost_id       text           NOT NULL,
    user_id       text,
    resource_type text           NOT NULL,
    actual_usd    numeric(20, 9) NOT NULL,
    occurred_at   timestamptz    NOT NULL,
    recorded_at   timestamptz    NOT NULL,
    attributes    jsonb          NOT NULL DEFAULT '{}',
    body          text           NOT NULL,
    CONSTRAINT cost_records_actual_is_an_amount CHECK (actual_usd >= 0 AND actual_usd <= 1000000000),
    CONSTRAINT cost_records_once_per_cost_id UNIQUE (tenant_id, cost_id)
);

-- Every decision with the facts that its policy saw, for people, for `replay`, and for the log view.
-- A denial that was not enforced is `unenforced`; `quota_id` is the binding
-- quota, null where waiting does not help; a policy that gave no verdict is `failed`.
CREATE TABLE copilot_internal.decisions (
    id            uuid           NOT NULL PRIMARY KEY,
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
    facts         jsonb          NOT NULL,
    CONSTRAINT decisions_outcome_is_known CHECK (outcome IN ('allowed', 'denied', 'unenforced', 'failed'))
);
CREATE INDEX decisions_by_tenant ON copilot_internal.decisions (tenant_id, decided_at DESC);
CREATE INDEX decisions_by_time ON copilot_internal.decisions (decided_at DESC);

-- One row for each (quota, window, threshold, limit) that was crossed, written by the transaction that crossed it.
CREATE TABLE copilot_internal.alerts (
    id            uuid           NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    quota_id      uuid           NOT NULL,
    scope         text           NOT NULL,
    scope_id      text           NOT NULL,
    resource_type text           NOT NULL,
    period        text           NOT NULL,
    window_start  timestamptz    NOT NULL,
    threshold     smallint       NOT NULL,
    limit_usd     numeric(20, 9) NOT NULL,
    spend_usd     numeric(20, 9) NOT NULL,
    created_at    timestamptz    NOT NULL,
    CONSTRAINT alerts_once_per_crossing UNIQUE (quota_id, window_start, threshold, limit_usd)
);
CREATE INDEX alerts_by_time ON copilot_internal.alerts (created_at DESC);
