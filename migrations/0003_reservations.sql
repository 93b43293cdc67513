-- Money set aside for one operation. A reservation ends once: settled, released or expired; after release or
-- expiry one late settle is still recorded.
--
-- `quota_ids` and `window_starts` go together: which quotas hold `held_usd`, each in which of its windows. The
-- books of those windows are where the money goes back or becomes spend, whenever that happens.
CREATE TABLE copilot_internal.reservations (
    id            uuid           NOT NULL PRIMARY KEY,
    tenant_id     text           NOT NULL,
    user_id       text,
    resource_type text           NOT NULL,
    request_id    text,
    body          text           NOT NULL,
    state         text           NOT NULL DEFAULT 'held',
    estimate_usd  numeric(20, 9) NOT NULL,
    held_usd      numeric(20, 9) NOT NULL,
    actual_usd    numeric(20, 9),
    late          boolean        NOT NULL DEFAULT false,
    quota_ids     uuid[]         NOT NULL,
    window_starts timestamptz[]  NOT NULL,
    policy_name   text           NOT NULL,
    policy_digest text           NOT NULL,
    created_at    timestamptz    NOT NULL,
    expires_at    timestamptz    NOT NULL,
    ended_at      timestamptz,
    settled_at    timestamptz,
    CONSTRAINT reservations_state_is_known CHECK (state IN ('held', 'settled', 'released', 'expired')),
    CONSTRAINT reservations_estimate_is_an_amount CHECK (estimate_usd >= 0 AND estimate_usd <= 1000000000),
    CONSTRAINT reservations_held_is_an_amount CHECK (held_usd >= 0 AND held_usd <= 1000000000),
    CONSTRAINT reservations_actual_is_an_amount CHECK (actual_usd >= 0 AND actual_usd <= 1000000000),
    CONSTRAINT reservations_settled_have_an_actual CHECK ((state = 'settled') = (actual_usd IS NOT NULL)),
    CONSTRAINT reservations_windows_go_with_quotas CHECK (cardinality(quota_ids) = cardinality(window_starts)),
    CONSTRAINT reservations_live_a_day_at_most CHECK (expires_at <= created_at + interval '24 hours')
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX reservations_once_per_request_id
    ON copilot_internal.reservations (tenant_id, request_id) WHERE request_id IS NOT NULL;
CREATE INDEX reservations_by_expiry ON copilot_internal.reservations (expires_at) WHERE state = 'held';
CREATE INDEX reservations_by_tenant ON copilot_internal.reservations (tenant_id, created_at DESC);
