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
