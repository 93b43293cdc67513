-- After the migrations, in the same transaction: what was set aside comes back.

-- The old table may have allowed rows without these; `check.sql` has seen that there are none.
ALTER TABLE copilot_internal.cost_quotas
    ALTER COLUMN scope         SET NOT NULL,
    ALTER COLUMN resource_type SET NOT NULL,
    ALTER COLUMN limit_usd     SET NOT NULL,
    ALTER COLUMN period        SET NOT NULL;
