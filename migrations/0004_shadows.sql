-- Where a candidate (NAME.next.wasm), asked in shadow beside the live policy, did not say the same. The decision stood as
-- the live policy made it; its facts are in `decisions` under the same id, where it was stored.
CREATE TABLE copilot_internal.policy_disagreements (
    decision_id       uuid        NOT NULL,
    candidate_digest  text        NOT NULL,
    decided_at        timestamptz NOT NULL,
    tenant_id         text        NOT NULL,
    resource_type     text        NOT NULL,
    policy_name       text        NOT NULL,
    live_digest       text        NOT NULL,
    live_outcome      text        NOT NULL,
    live_code         text,
    candidate_outcome text        NOT NULL,
    candidate_code    text,
    candidate_reason  text,
    CONSTRAINT policy_disagreements_once_per_decision PRIMARY KEY (decision_id, candidate_digest),
    CONSTRAINT policy_disagreements_live_outcome_is_known CHECK (live_outcome IN ('allowed', 'denied')),
    CONSTRAINT policy_disagreements_candidate_outcome_is_known
        CHECK (candidate_outcome IN ('allowed', 'denied', 'failed'))
);
CREATE INDEX policy_disagreements_by_candidate
    ON copilot_internal.policy_disagreements (candidate_digest, decided_at DESC);
