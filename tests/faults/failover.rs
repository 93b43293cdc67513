//! A primary that is gone for good, and a standby that takes its place: what was answered is in its books.

use std::time::Instant;

use serde_json::json;

use super::books::check;
use super::report::Report;
use super::server::value;
use super::world::World;
use crate::harness::until;

async fn are_degraded(world: &World) {
    for host in &world.hosts {
        until("a host knows how its store is", || async {
            host.gate().send("GET", "/readyz", json!(null)).await.at("/degraded") == json!(true)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_standby_takes_the_place_of_its_primary_everything_that_was_answered_is_in_its_books() {
    let mut world = World::start(2026, None).await;
    // The second is the standby of the first, when that has taken its primary's place.
    for _ in 0..2 {
        let standby = world.loses_its_primary(100).await;
        are_degraded(&world).await;
        assert_eq!(value(&standby.options, "SELECT pg_is_in_recovery()::text").await.as_deref(), Some("true"));
        world.workload.answers(100).await;
        are_degraded(&world).await;
        let promoted = Instant::now();
        world.primary = Some(standby.promote().await);
        world.are_well().await;
        println!("well {} ms after the promotion", promoted.elapsed().as_millis());
        world.workload.answers(100).await;
    }
    let answered = world.workload.stop().await;
    world.are_well().await;
    let mut report = Report::default();
    check(&world.options(), &answered, &mut report).await;
    assert!(answered.degraded > 0 && answered.costs.len() > 20, "{} costs", answered.costs.len());
    assert!(report.violations().is_empty(), "{:#?}", report.violations());
    world.end().await;
}
