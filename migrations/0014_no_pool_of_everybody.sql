-- The scope id of everybody is no pool. By itself: whoever decides locks this table before the quotas'.
LOCK TABLE copilot_internal.tenants IN ACCESS EXCLUSIVE MODE;
UPDATE copilot_internal.tenants SET pool = NULL WHERE pool = '*';
ALTER TABLE copilot_internal.tenants ADD CONSTRAINT tenants_pool_is_not_everybody CHECK (pool <> '*');
