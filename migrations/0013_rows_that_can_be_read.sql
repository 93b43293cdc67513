-- What SQL could write and no host can read: such a row failed its own requests, and whoever was in a batch with them. An
-- override for ever ends on the last day that answers can name. The table is locked first: a lock that grows meets others.
LOCK TABLE copilot_internal.cost_quotas IN ACCESS EXCLUSIVE MODE;
UPDATE copilot_internal.cost_quotas SET override_until = '9999-12-31T23:59:59Z' WHERE override_until >= '10000-01-01T00:00:00Z';
UPDATE copilot_internal.cost_quotas SET override_limit_usd = NULL, override_until = NULL, override_reason = NULL
WHERE override_until < '1970-01-01T00:00:00Z';
UPDATE copilot_internal.cost_quotas SET period_start = NULL
WHERE period_start >= '10000-01-01T00:00:00Z' OR period_start < '1970-01-01T00:00:00Z';
UPDATE copilot_internal.cost_quotas SET thresholds = ARRAY(SELECT unnest(thresholds)) WHERE array_ndims(thresholds) > 1;
UPDATE copilot_internal.cost_quotas SET thresholds = array_remove(thresholds, NULL)
WHERE array_position(thresholds, NULL) IS NOT NULL;
ALTER TABLE copilot_internal.cost_quotas
    ADD CONSTRAINT cost_quotas_override_ends_before_the_year_10000
        CHECK (override_until >= '1970-01-01T00:00:00Z' AND override_until < '10000-01-01T00:00:00Z'),
    ADD CONSTRAINT cost_quotas_period_starts_before_the_year_10000
        CHECK (period_start >= '1970-01-01T00:00:00Z' AND period_start < '10000-01-01T00:00:00Z'),
    ADD CONSTRAINT cost_quotas_thresholds_are_numbers CHECK (array_position(thresholds, NULL) IS NULL);
