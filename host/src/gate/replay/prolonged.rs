//! How long what was promised lives once it is in the books.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::gate::LONGEST;
use crate::gate::step::Step;

/// For what other hosts keep of a promise whose time is over: they look once a second whether it is in the books, and so
/// does whoever gives back what is due.
const GRACE: TimeDelta = TimeDelta::seconds(10);

/// Lets promises live until what `steps` prolong them to: they would be given back between their own step and that one. And
/// a little longer than `now` where nothing of them is their end. Steps of one record each, promises first.
pub(super) fn prolong(steps: &mut [Step], now: DateTime<Utc>) {
    let mut places: HashMap<Uuid, (usize, bool)> = HashMap::new();
    for place in 0..steps.len() {
        match &steps[place] {
            Step::Reserve(promised) => places.extend(promised.iter().map(|new| (new.id, (place, false)))),
            Step::Extend { id, tenant, until, at } => {
                let (id, tenant, until, at) = (*id, tenant.clone(), *until, *at);
                if let Some((promise, _)) = places.get(&id)
                    && let Step::Reserve(promised) = &mut steps[*promise]
                {
                    for new in promised.iter_mut().filter(|new| new.tenant == tenant && new.expires_at > at) {
                        new.expires_at = new.expires_at.max(until.min(new.created_at + LONGEST));
                    }
                }
            }
            Step::End(endings) => {
                for ending in endings {
                    places.entry(ending.id).and_modify(|(_, has_ended)| *has_ended = true);
                }
            }
            Step::Cost(_) => {}
        }
    }
    for (place, has_ended) in places.into_values() {
        if let Step::Reserve(promised) = &mut steps[place]
            && !has_ended
        {
            for new in promised {
                new.expires_at = new.expires_at.max((now + GRACE).min(new.created_at + LONGEST));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Money;
    use crate::quota::{ResourceType, TenantId};
    use crate::store::replay::Promised;
    use crate::store::reservations::{End, Ending};

    fn minute(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
    }

    fn tenant() -> TenantId {
        TenantId::parse("acme-corp").expect("an id")
    }

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    /// Made at 0 for ten minutes.
    fn promise(n: u128) -> Step {
        Step::Reserve(vec![Promised {
            id: id(n),
            tenant: tenant(),
            user: None,
            resource_type: ResourceType::parse("llm").expect("a type"),
            request_id: None,
            body: String::new(),
            estimate: Money::ZERO,
            created_at: minute(0),
            expires_at: minute(10),
        }])
    }

    fn extend(n: u128, at: i64, until: i64) -> Step {
        Step::Extend { id: id(n), tenant: tenant(), until: minute(until), at: minute(at) }
    }

    fn release(n: u128) -> Step {
        Step::End(vec![Ending { id: id(n), tenant: tenant(), end: End::Release, at: minute(5) }])
    }

    fn lives_until(steps: Vec<Step>, now: i64) -> Vec<DateTime<Utc>> {
        let mut steps = steps;
        prolong(&mut steps, minute(now));
        let promised =
            steps.into_iter().filter_map(|step| if let Step::Reserve(new) = step { Some(new) } else { None });
        promised.flatten().map(|new| new.expires_at).collect()
    }

    #[test]
    fn a_promise_lives_as_long_as_it_was_prolonged_to_while_it_lived() {
        let steps =
            vec![promise(1), promise(2), extend(1, 5, 20), extend(1, 15, 30), extend(2, 11, 40), extend(3, 1, 99)];
        assert_eq!(lives_until(steps, 1), [minute(30), minute(10)]);
        assert_eq!(lives_until(vec![promise(1), extend(1, 5, 2_000)], 1), [minute(1_440)]);
    }

    #[test]
    fn a_promise_that_is_over_lives_a_little_longer_unless_its_end_is_known() {
        assert_eq!(lives_until(vec![promise(1), promise(2), release(2)], 60), [minute(60) + GRACE, minute(10)]);
        assert_eq!(lives_until(vec![promise(1)], 1_500), [minute(1_440)]);
    }
}
