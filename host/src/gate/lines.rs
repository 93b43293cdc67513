//! The log lines of a decision. Messages, levels and field names are those of the system that Tollgate replaces, so
//! that its searches and dashboards go on working.

use tracing::{debug, error, warn};

use crate::decision::{Decision, Denial, Outcome, Request};
use crate::money::Money;
use crate::quota::{ResourceType, UserId};

/// A request has come and will be decided.
pub(super) fn asked(request: &Request) {
    let tenant = request.tenant.as_str();
    match request.resource_type.as_str() {
        ResourceType::E2B => {
            debug!(
                tenantId = tenant,
                estimatedCostUsd = amount(request.estimate),
                decisionId = %request.id,
                "Checking E2B quota before sandbox creation"
            );
        }
        ResourceType::LLM => {
            debug!(
                tenantId = tenant,
                estimatedCostUsd = amount(request.estimate),
                decisionId = %request.id,
                "Checking LLM quota before request"
            );
        }
        _ => {}
    }
}

/// It was allowed without a decision.
pub(super) fn degraded(decision: &Decision) {
    let request = &decision.facts.request;
    tracing::warn!(
        tenantId = request.tenant.as_str(),
        resourceType = request.resource_type.as_str(),
        estimatedCostUsd = amount(request.estimate),
        decisionId = %request.id,
        degraded = true,
        "Allowed without a decision: the store cannot be reached"
    );
}

/// The decision was made.
pub(super) fn decided(decision: &Decision) {
    match &decision.outcome {
        Outcome::Allowed => passed(decision, None),
        Outcome::Unenforced(_) => passed(decision, Some(false)),
        Outcome::Denied(denial) if denial.binding.is_none() => refused_by_policy(decision, denial),
        Outcome::Denied(denial) => exceeded(decision, denial),
    }
}

/// An amount as the number that it is: the log's writer knows these fields.
fn amount(money: Money) -> tracing::field::DisplayValue<String> {
    tracing::field::display(money.to_decimal())
}

fn passed(decision: &Decision, enforced: Option<bool>) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let request = &decision.facts.request;
    let (tenant, policy) = (request.tenant.as_str(), &*decision.policy.name);
    let id = tracing::field::display(request.id);
    let estimate = amount(request.estimate);
    if request.resource_type.as_str() == ResourceType::E2B {
        debug!(tenantId = tenant, quotaCheckPassed = true, enforced, decisionId = id, policy, "E2B quota check passed");
        return;
    }
    let message = format!("{} quota check passed", request.resource_type.upper());
    debug!(
        tenantId = tenant,
        estimatedCostUsd = estimate,
        quotaCheckPassed = true,
        enforced,
        decisionId = id,
        policy,
        "{message}"
    );
}

fn exceeded(decision: &Decision, denial: &Denial) {
    let request = &decision.facts.request;
    let (tenant, reason, policy) = (request.tenant.as_str(), denial.reason.as_str(), &*decision.policy.name);
    let user = request.user.as_ref().map(UserId::as_str);
    let id = || tracing::field::display(request.id);
    let estimate = amount(request.estimate);
    if request.resource_type.as_str() == ResourceType::E2B {
        error!(
            tenantId = tenant,
            estimatedCostUsd = estimate,
            reason,
            decisionId = id(),
            policy,
            "E2B quota exceeded, cannot create sandbox"
        );
        return;
    }
    let spend = denial.binding.as_ref().map(|quota| amount(quota.spend));
    let limit = denial.binding.as_ref().map(|quota| amount(quota.limit));
    if request.resource_type.as_str() == ResourceType::LLM {
        warn!(
            tenantId = tenant,
            estimatedCostUsd = estimate,
            currentSpend = spend,
            limit,
            decisionId = id(),
            policy,
            "LLM quota check failed"
        );
        warn!(
            tenantId = tenant,
            userId = user,
            reason,
            decisionId = id(),
            policy,
            "Chat request denied due to LLM quota exceeded"
        );
    } else {
        let message = format!("{} quota exceeded", request.resource_type.upper());
        warn!(
            tenantId = tenant,
            userId = user,
            estimatedCostUsd = estimate,
            currentSpend = spend,
            limit,
            reason,
            decisionId = id(),
            policy,
            "{message}"
        );
    }
}

fn refused_by_policy(decision: &Decision, denial: &Denial) {
    let request = &decision.facts.request;
    let message = format!("{} request denied by policy", request.resource_type.upper());
    warn!(
        tenantId = request.tenant.as_str(),
        userId = request.user.as_ref().map(UserId::as_str),
        code = denial.code,
        reason = denial.reason,
        decisionId = %request.id,
        policy = &*decision.policy.name,
        "{message}"
    );
}
