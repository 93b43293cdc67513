//! PagerDuty's Events API v2: <https://developer.pagerduty.com/docs/events-api-v2-overview>

use serde_json::{Map, Value, json};

use super::notice::{Kind, Notice, Severity};
use super::webhook::{Poster, Webhook};
use super::{Secret, SendError};

/// The longest summary of an event.
const LONGEST_SUMMARY: usize = 1_024;

#[derive(Debug)]
pub(super) struct PagerDuty {
    poster: Poster,
    to: Webhook,
    key: Secret,
}

impl PagerDuty {
    pub(super) fn new(poster: Poster, to: Webhook, key: Secret) -> Self {
        Self { poster, to, key }
    }

    pub(super) async fn trigger(&self, notice: &Notice) -> Result<(), SendError> {
        let mut event = self.event("trigger", notice);
        let summary: String = notice.title().chars().take(LONGEST_SUMMARY).collect();
        let details: Map<String, Value> =
            notice.lines().into_iter().map(|(label, text)| (label.to_lowercase(), text.into())).collect();
        event["payload"] = json!({
            "summary": summary,
            "source": "tollgate",
            "severity": match notice.severity() {
                Severity::Info => "info",
                Severity::Warning => "warning",
                Severity::Critical => "critical",
            },
            "timestamp": notice.at.to_rfc3339(),
            "component": component(notice),
            "custom_details": details,
        });
        self.poster.post(&self.to, &event).await
    }

    pub(super) async fn resolve(&self, notice: &Notice) -> Result<(), SendError> {
        self.poster.post(&self.to, &self.event("resolve", notice)).await
    }

    fn event(&self, action: &str, notice: &Notice) -> Value {
        json!({
            "routing_key": self.key.text(),
            "event_action": action,
            "dedup_key": dedup_key(notice),
            "client": "Tollgate",
        })
    }
}

fn component(notice: &Notice) -> String {
    match &notice.kind {
        Kind::Threshold(subject, _) | Kind::Predicted(subject) => subject.scope_id.clone(),
        Kind::Summary(_) | Kind::Test => "tollgate".to_owned(),
    }
}

/// One incident for each quota, window and threshold: whatever is sent twice, or again after the limit was raised,
/// is the same one.
fn dedup_key(notice: &Notice) -> String {
    match &notice.kind {
        Kind::Threshold(subject, threshold) => {
            format!(
                "tollgate/{}/{}/{threshold}",
                subject.quota_id,
                subject.period.window(subject.window.start).start.timestamp()
            )
        }
        Kind::Predicted(subject) => {
            format!("tollgate/{}/{}/predicted", subject.quota_id, subject.window.start.timestamp())
        }
        Kind::Summary(_) | Kind::Test => format!("tollgate/{}", notice.id),
    }
}
