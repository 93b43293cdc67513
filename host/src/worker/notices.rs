//! An alert's row as people are told it.

use crate::alert::{Kind, Notice, Share, Subject, Summary};
use crate::gate::Enforcement;
use crate::money::Money;
use crate::period::Period;
use crate::quota::ResourceType;
use crate::store::alerts::Alert;
use crate::store::deliveries::Claimed;
use crate::store::outlook::Spent;

/// The alert as it is told; `None` where its row makes no sense.
pub(super) fn notice(claimed: &Claimed, enforcement: Enforcement) -> Option<Notice> {
    let Alert { id, created_at, .. } = claimed.alert;
    let kind = match claimed.alert.kind.as_str() {
        "threshold" => Kind::Threshold(subject(claimed, enforcement)?, claimed.alert.threshold),
        "predicted" => Kind::Predicted(subject(claimed, enforcement)?),
        "summary" => Kind::Summary(summary(&claimed.alert)?),
        _ => return None,
    };
    Some(Notice { id, at: created_at, kind })
}

fn subject(claimed: &Claimed, enforcement: Enforcement) -> Option<Subject> {
    let alert = &claimed.alert;
    let period: Period = alert.period.parse().ok()?;
    let mut window = period.window(alert.window_start);
    if period == Period::Lifetime
        && let Some(since) = claimed.quota_since
    {
        window.start = since;
    }
    Some(Subject {
        quota_id: alert.quota_id,
        scope: alert.scope.clone(),
        scope_id: alert.scope_id.clone(),
        resource_type: alert.resource_type.clone(),
        period,
        window,
        limit: alert.limit,
        spend: alert.spend,
        enforced: enforcement.of(&ResourceType::parse(&alert.resource_type).ok()?),
    })
}

fn summary(alert: &Alert) -> Option<Summary> {
    let period: Period = alert.period.parse().ok()?;
    let told = Spent::read(alert.detail.as_deref()?)?;
    let share = |name: String, nanos: i64, before: i64| Share {
        name,
        spend: Money::from_nanos(nanos),
        before: Money::from_nanos(before),
    };
    Some(Summary {
        period,
        window: period.window(alert.window_start),
        total: share("everybody".to_owned(), told.nanos, told.before_nanos),
        most: told
            .most
            .into_iter()
            .map(|most| share(format!("{} {}", most.scope_id, most.resource_type), most.nanos, most.before_nanos))
            .collect(),
    })
}
