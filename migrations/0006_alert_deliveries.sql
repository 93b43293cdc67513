-- Alerts reach people: which alert goes to which channel, and how far that is.

-- `threshold` is crossed; `predicted` means that at this rate the quota ends before its window; the summaries belong to
-- no quota. `detail` is what a summary tells.
ALTER TABLE copilot_internal.alerts
    ADD COLUMN kind   text    NOT NULL DEFAULT 'threshold',
    ADD COLUMN detail json,
    -- Rows that are there already were crossed while nobody was told: they are not told now.
    ADD COLUMN routed boolean NOT NULL DEFAULT true,
    ADD CONSTRAINT alerts_kind_is_known CHECK (kind IN ('threshold', 'predicted', 'summary')),
    DROP CONSTRAINT alerts_once_per_crossing,
    ADD CONSTRAINT alerts_once_per_crossing UNIQUE (quota_id, window_start, kind, threshold, limit_usd, period);
ALTER TABLE copilot_internal.alerts ALTER COLUMN routed SET DEFAULT false;
CREATE INDEX alerts_not_routed ON copilot_internal.alerts (created_at) WHERE NOT routed;

-- `due_at` is also the lease: who takes a delivery moves it past the time that sending may take, so that another host
-- finds it again if this one dies. `action` is what is told: an incident is first triggered and later resolved.
CREATE TABLE copilot_internal.alert_deliveries (
    alert_id   uuid        NOT NULL REFERENCES copilot_internal.alerts (id) ON DELETE CASCADE,
    channel    text        NOT NULL,
    action     text        NOT NULL DEFAULT 'trigger',
    state      text        NOT NULL DEFAULT 'due',
    attempts   integer     NOT NULL DEFAULT 0,
    due_at     timestamptz NOT NULL,
    sent_at    timestamptz,
    last_error text,
    PRIMARY KEY (alert_id, channel),
    CONSTRAINT alert_deliveries_channel_is_known CHECK (channel IN ('slack', 'email', 'pagerduty')),
    CONSTRAINT alert_deliveries_action_is_known CHECK (action IN ('trigger', 'resolve')),
    CONSTRAINT alert_deliveries_state_is_known CHECK (state IN ('due', 'sent', 'failed'))
);
CREATE INDEX alert_deliveries_due ON copilot_internal.alert_deliveries (channel, due_at) WHERE state = 'due';
CREATE INDEX alert_deliveries_open ON copilot_internal.alert_deliveries (alert_id)
    WHERE channel = 'pagerduty' AND action = 'trigger' AND state = 'sent';
