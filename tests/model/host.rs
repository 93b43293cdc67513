//! Steps as a host is told them, and its answers against what the model expects.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::books::{dollars, nanos};
use super::reference::{Expected, Key, Model, Reservation, View};
use super::steps::{Actual, Ask, Spent};
use crate::harness::{Answer, Host};

impl Host {
    pub async fn asks(&self, path: &str, ask: &Ask) -> Answer {
        let mut body = json!({
            "tenantId": ask.tenant, "userId": ask.user, "resourceType": ask.resource, "estimatedCostUsd": dollars(ask.usd),
            "requestId": ask.id.map(|id| format!("r-{id}")),
        });
        if path == "/v1/reservations" {
            body["ttlSeconds"] = ask.ttl.into();
        }
        self.post(path, body).await
    }

    pub async fn ends(&self, id: &str, first: &Reservation, how: &str, more: &[(&str, Value)]) -> Answer {
        let mut body = json!({ "tenantId": first.ask.tenant });
        for (name, value) in more {
            body[*name] = value.clone();
        }
        self.post(&format!("/v1/reservations/{id}/{how}"), body).await
    }

    pub async fn settles(&self, id: &str, first: &Reservation, actual: Actual, model: &Model) -> Answer {
        let usd = match model.expected {
            Expected::Recorded { usd, .. } => usd,
            _ => actual.of(first.ask.usd),
        };
        self.ends(id, first, "settle", &[("actualCostUsd", dollars(usd).into())]).await
    }

    pub async fn spends(&self, cost: &Spent) -> Answer {
        let at = cost.at.map(|at| DateTime::from_timestamp_millis(at).expect("an instant"));
        let body = json!({
            "tenantId": cost.tenant, "userId": cost.user, "resourceType": cost.resource, "costId": format!("c-{}", cost.id),
            "actualCostUsd": dollars(cost.usd), "occurredAt": at,
        });
        self.post("/v1/costs", body).await
    }

    pub async fn set_quota(&self, key: &Key, limit: i64, hard_limit: Option<i64>) {
        let body = json!({ "limitUsd": dollars(limit), "hardLimitUsd": hard_limit.map(dollars) });
        let answer = self.put(&path(key), body).await;
        assert!([200, 201].contains(&answer.status), "{answer:?}");
    }

    pub async fn delete_quota(&self, key: &Key) {
        self.delete(&path(key)).await.expect_status(204);
    }
}

fn path((scope, id, resource, period): &Key) -> String {
    format!("/v1/quotas/{scope}/{}/{resource}/{}", id.replace('/', "%2F"), period.word())
}

impl Answer {
    fn usd(&self, pointer: &str) -> i64 {
        nanos(&self.at(pointer))
    }

    /// The quota that an answer shows, as the model stands: to the nano-dollar, but for held money that is due.
    fn shows(&self, pointer: &str, views: &[View], may_be_due: bool) -> Key {
        let word = |field: &str| self.word(&format!("{pointer}/{field}"));
        let is_it = |view: &&View| {
            view.key.0 == word("scope")
                && view.key.1 == word("scopeId")
                && view.key.2 == word("resourceType")
                && view.key.3.word() == word("period")
        };
        let view = views.iter().find(is_it).unwrap_or_else(|| panic!("{} is none of {views:?}", self.text));
        let usd = |field: &str| self.usd(&format!("{pointer}/{field}"));
        assert_eq!((usd("limitUsd"), usd("currentSpendUsd")), (view.limit, view.spend), "{view:?}: {}", self.text);
        let most = view.held + if may_be_due { view.due } else { 0 };
        assert!((view.held..=most).contains(&usd("heldUsd")), "{view:?}: {}", self.text);
        assert_eq!(usd("remainingUsd"), view.limit - view.spend - usd("heldUsd"), "{}", self.text);
        view.key
    }

    fn shows_the_tightest(&self, views: &[View]) {
        if views.is_empty() {
            assert_eq!(self.at("/quotaDetails"), Value::Null, "{}", self.text);
            return;
        }
        self.shows("/quotaDetails", views, true);
        let least = views.iter().map(|view| view.limit - view.spend - view.held).min();
        let slack = views.iter().map(|view| view.due).max();
        assert!(Some(self.usd("/quotaDetails/remainingUsd")) <= least, "{}: {views:?}", self.text);
        assert!(Some(self.usd("/quotaDetails/remainingUsd")) >= least.zip(slack).map(|(a, b)| a - b), "{}", self.text);
    }

    /// What the model expects; learns the id of a new reservation.
    pub fn is(self, model: &Model, ids: &mut Vec<String>) {
        let status = match &model.expected {
            Expected::Nothing => panic!("a step that is answered"),
            Expected::Reserved { .. } | Expected::Repeated { .. } => 201,
            Expected::Denied { .. } => 429,
            Expected::Conflict => 409,
            Expected::Gone => 410,
            _ => 200,
        };
        assert_eq!(self.status, status, "expected {:?}, got {}", model.expected, self.text);
        let expiry =
            |pointer: &str| self.word(pointer).parse::<DateTime<Utc>>().expect("an instant").timestamp_millis();
        match &model.expected {
            Expected::Reserved { number, views } => {
                assert_eq!((*number, self.at("/duplicate")), (ids.len(), Value::Null), "{}", self.text);
                ids.push(self.word("/reservationId"));
                assert_eq!(self.usd("/heldUsd"), model.reservations[*number].ask.usd);
                assert_eq!(expiry("/expiresAt"), model.reservations[*number].expires);
                self.shows_the_tightest(views);
            }
            Expected::Repeated { number } => {
                assert_eq!((self.word("/reservationId"), self.at("/duplicate")), (ids[*number].clone(), json!(true)));
                assert_eq!(self.usd("/heldUsd"), model.reservations[*number].ask.usd);
                assert_eq!(expiry("/expiresAt"), model.reservations[*number].expires);
            }
            Expected::Denied { code, retry_after, binding } => {
                let key = self.shows("/quotaDetails", binding, false);
                let after = retry_after[&key];
                assert_eq!(
                    (self.word("/code").as_str(), self.at("/retryAfter")),
                    (*code, json!(after)),
                    "{}",
                    self.text
                );
            }
            Expected::Recorded { usd, overrun, late, duplicate, views } => {
                assert_eq!((self.usd("/recordedUsd"), self.usd("/overrunUsd")), (*usd, *overrun), "{}", self.text);
                assert_eq!(self.at("/duplicate"), json!(duplicate), "{}", self.text);
                assert!(late.is_none_or(|late| self.at("/late") == json!(late)), "{:?}: {}", model.expected, self.text);
                let shown = self.at("/quotas").as_array().map_or(0, Vec::len);
                assert_eq!(shown, views.len(), "{views:?}: {}", self.text);
                for n in 0..shown {
                    self.shows(&format!("/quotas/{n}/quotaDetails"), views, true);
                }
            }
            Expected::Released { usd, duplicate } => {
                assert_eq!((self.usd("/releasedUsd"), self.at("/duplicate")), (*usd, json!(duplicate)));
            }
            Expected::Extended { until } => assert_eq!(expiry("/expiresAt"), *until, "{}", self.text),
            Expected::Allowed { views } => self.shows_the_tightest(views),
            Expected::Nothing | Expected::Conflict | Expected::Gone => {}
        }
    }
}
