CREATE OR REPLACE VIEW public.application_logs AS
SELECT d.decided_at AS timestamp, line.level, line.message, d.tenant_id, d.user_id,
       d.id AS decision_id, d.resource_type, d.estimate_usd, d.code, d.reason, d.policy_name
FROM copilot_internal.decisions AS d
CROSS JOIN LATERAL (
    SELECT 'warn', upper(d.resource_type) || ' request denied by policy'
    WHERE d.quota_id IS NULL
    UNION ALL
    SELECT 'error', 'E2B quota exceeded, cannot create sandbox'
    WHERE d.quota_id IS NOT NULL AND d.resource_type = 'e2b'
    UNION ALL
    SELECT 'warn', message
    FROM unnest(ARRAY['LLM quota check failed', 'Chat request denied due to LLM quota exceeded']) AS message
    WHERE d.quota_id IS NOT NULL AND d.resource_type = 'llm'
    UNION ALL
    SELECT 'warn', upper(d.resource_type) || ' quota exceeded'
    WHERE d.quota_id IS NOT NULL AND d.resource_type NOT IN ('llm', 'e2b')
) AS line (level, message)
WHERE d.outcome = 'denied';
COMMENT ON VIEW public.application_logs IS 'Denial log lines of Tollgate.';
