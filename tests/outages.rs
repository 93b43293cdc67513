//! While the store cannot be reached the gate answers as its mode says; afterwards every cost is in the books once.

mod late;
mod once;
pub mod process;
mod promised;
mod replay;
mod silent;
mod table;

use serde_json::{Value, json};
use sqlx::ConnectOptions as _;
use tollgate::gate::StoreFailure;
use tollgate::money::Money;
use tollgate::spool::{Disk, Local};

use crate::harness::{Answer, Database, Host, Setup, Switch, Wire, llm, llm_cost, until};

const BOOKS: &str =
    "SELECT current_spend_usd::numeric(20,2) || ' + ' || held_usd::numeric(20,2) || ' of ' || admitted_count
     FROM copilot_internal.cost_quotas WHERE scope = 'tenant' AND scope_id = 'acme-corp'";

/// A host whose database can be switched off, with a quota of $100 a day for `acme-corp`.
struct Cut {
    host: Host,
    database: Database,
    switch: Switch,
}

impl Cut {
    async fn start(store_failure: StoreFailure) -> Self {
        Self::on_disk(store_failure, Box::new(Local)).await
    }

    /// With its spool on this disk.
    async fn on_disk(store_failure: StoreFailure, disk: Box<dyn Disk>) -> Self {
        let database = Database::migrated().await;
        let switch = Switch::new(database.options().get_socket().expect("a socket"));
        let options = database.options().socket(switch.folder());
        let (through, clone) = (Some(options), Some(database.clone()));
        let host = Setup { database: clone, through, store_failure, disk, ..Setup::default() }.start().await;
        host.put("/v1/quotas/tenant/acme-corp/llm/day", json!({ "limitUsd": 100 })).await.expect_status(201);
        Self { host, database, switch }
    }

    /// Switched off, and known to be.
    async fn off(&self, wire: Wire) {
        self.switch.now(wire);
        self.is_degraded(true).await;
    }

    /// Switched on again, with everything in the books.
    async fn on(&self) {
        self.switch.now(Wire::Forwards);
        self.is_degraded(false).await;
    }

    async fn is_degraded(&self, degraded: bool) {
        until("the gate knows how its store is", || async {
            self.host.get("/readyz").await.json()["degraded"] == json!(degraded)
        })
        .await;
    }

    async fn books(&self) -> String {
        self.database.value(BOOKS).await
    }

    async fn reserve(&self, usd: &str) -> (Answer, String) {
        let answer = self.host.post("/v1/reservations", llm(usd)).await.expect_status(201);
        let id = answer.word("/reservationId");
        (answer, id)
    }

    async fn end(&self, id: &str, how: &str, mut body: Value) -> Answer {
        body["tenantId"] = json!("acme-corp");
        self.host.post(&format!("/v1/reservations/{id}/{how}"), body).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_down_everything_is_allowed_and_afterwards_every_cost_is_in_the_books_once() {
    let cut = Cut::start(StoreFailure::Open).await;
    let (_, before) = cut.reserve("10").await;
    let (_, given_back) = cut.reserve("5").await;
    assert_eq!(cut.books().await, "0.00 + 15.00 of 2");
    cut.off(Wire::Refuses).await;

    let check = cut.host.check(llm("1000")).await.expect_status(200);
    assert_eq!(
        (check.at("/degraded"), check.at("/policy"), check.at("/quotaDetails")),
        (json!(true), json!(null), json!(null))
    );
    let (made, during) = cut.reserve("20").await;
    assert_eq!((made.at("/degraded"), made.at("/heldUsd")), (json!(true), json!(20.00)));
    let (_, kept) = cut.reserve("7").await;
    for (id, usd) in [(&before, "11"), (&during, "18.50")] {
        for again in [false, true] {
            let settled = cut.end(id, "settle", json!({ "actualCostUsd": usd })).await.expect_status(200);
            assert_eq!((settled.at("/degraded"), settled.at("/duplicate")), (json!(true), json!(again)), "{settled:?}");
        }
    }
    cut.end(&given_back, "release", json!({})).await.expect_status(200);
    for _ in 0..2 {
        let cost = cut.host.cost(llm_cost("during", "3.25")).await;
        assert_eq!((cost.at("/degraded"), cost.at("/recordedUsd")), (json!(true), json!(3.25)));
    }
    cut.on().await;

    assert_eq!(cut.books().await, "32.75 + 7.00 of 5");
    let settled = cut.end(&during, "settle", json!({ "actualCostUsd": "18.5" })).await.expect_status(200);
    assert_eq!(settled.at("/duplicate"), json!(true));
    assert_eq!(cut.host.cost(llm_cost("during", "3.25")).await.at("/duplicate"), json!(true));
    cut.end(&kept, "settle", json!({ "actualCostUsd": "7" })).await.expect_status(200);
    assert_eq!(cut.books().await, "39.75 + 0.00 of 5");
    let check = cut.host.check(llm("1")).await.expect_status(200);
    assert_eq!((check.at("/degraded"), check.word("/policy/name").as_str()), (json!(null), "standard"));
    cut.host.check(llm("61")).await.expect_status(429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_slow_is_not_down_and_buys_nobody_free_passage() {
    let cut = Cut::start(StoreFailure::Open).await;
    cut.reserve("1").await;
    // Somebody holds the row's lock for longer than anybody waits for it.
    let mut holder = cut.database.options().connect().await.expect("a connection");
    let lock = "BEGIN; UPDATE copilot_internal.cost_quotas SET limit_usd = 101; SELECT 1";
    sqlx::raw_sql(lock).execute(&mut holder).await.expect("a lock");
    for path in ["/v1/reservations", "/v1/costs"] {
        let body = if path == "/v1/costs" { llm_cost("slow", "1") } else { llm("1") };
        let answer = cut.host.post(path, body).await.expect_status(503);
        assert_eq!(answer.word("/error"), "overloaded", "{path}");
    }
    cut.host.check(llm("1000")).await.expect_status(429);
    assert_eq!(cut.host.get("/readyz").await.at("/degraded"), json!(false));
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.expect("no more lock");
    cut.host.cost(llm_cost("slow", "1")).await;
    assert_eq!(cut.books().await, "1.00 + 1.00 of 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_writes_is_down_until_it_does() {
    let cut = Cut::start(StoreFailure::Open).await;
    let database = cut.database.value("SELECT current_database()::text").await;
    cut.database.run(&format!("ALTER DATABASE {database} SET default_transaction_read_only = on")).await;
    let disconnect = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";
    cut.database.run(disconnect).await;
    cut.is_degraded(true).await;
    cut.host.cost(llm_cost("standby", "2")).await;
    cut.database.run("SET default_transaction_read_only = off").await;
    cut.database
        .run(&format!("BEGIN READ WRITE; ALTER DATABASE {database} RESET default_transaction_read_only; COMMIT"))
        .await;
    cut.is_degraded(false).await;
    assert_eq!(cut.books().await, "2.00 + 0.00 of 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_refuses_with_503_and_still_keeps_what_was_spent() {
    let cut = Cut::start(StoreFailure::Closed).await;
    let (_, id) = cut.reserve("10").await;
    cut.switch.now(Wire::Refuses);
    for path in ["/v1/check", "/v1/reservations"] {
        let refused = cut.host.post(path, llm("1")).await.expect_status(503);
        assert_eq!(refused.word("/error"), "store_unavailable");
    }
    cut.host.get("/readyz").await.expect_status(503);
    cut.end(&id, "settle", json!({ "actualCostUsd": 4 })).await.expect_status(200);
    cut.host.cost(llm_cost("closed", "1")).await;
    cut.on().await;
    assert_eq!(cut.books().await, "5.00 + 0.00 of 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn bounded_allows_so_much_for_each_tenant_and_outage() {
    let cut = Cut::start(StoreFailure::Bounded(Money::parse("1").expect("an amount"))).await;
    for _ in 0..2 {
        cut.off(Wire::Refuses).await;
        cut.host.check(llm("0.60")).await.expect_status(200);
        cut.host.check(llm("0.60")).await.expect_status(503);
        cut.host.post("/v1/reservations", llm("0.40")).await.expect_status(201);
        cut.host.check(llm("0.000000001")).await.expect_status(503);
        let other = json!({ "tenantId": "other", "resourceType": "llm", "estimatedCostUsd": 1 });
        cut.host.check(other).await.expect_status(200);
        cut.on().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_before_midnight_is_in_that_days_books_though_the_store_came_back_after_it() {
    let cut = Cut::start(StoreFailure::Open).await;
    cut.host.at("2026-01-04T23:50:00Z");
    let (_, before) = cut.reserve("10").await;
    cut.off(Wire::Refuses).await;
    let (_, during) = cut.reserve("20").await;
    cut.end(&before, "settle", json!({ "actualCostUsd": 9 })).await.expect_status(200);
    cut.host.cost(llm_cost("yesterday", "1")).await;
    cut.host.at("2026-01-05T00:01:00Z");
    cut.end(&during, "settle", json!({ "actualCostUsd": 21 })).await.expect_status(200);
    cut.host.cost(llm_cost("today", "2")).await;
    cut.on().await;
    let yesterday = "SELECT spend_usd::numeric(20,2) || ' + ' || held_usd::numeric(20,2)
                     FROM copilot_internal.cost_quota_periods WHERE window_start = '2026-01-04'";
    assert_eq!(cut.database.value(yesterday).await, "31.00 + 0.00");
    assert_eq!(cut.books().await, "2.00 + 0.00 of 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_came_in_an_outage_has_what_was_settled_then_in_the_window_of_its_time() {
    let cut = Cut::start(StoreFailure::Open).await;
    cut.host.at("2026-01-04T23:50:00Z");
    let (_, id) = cut.reserve("10").await;
    cut.off(Wire::Refuses).await;
    cut.end(&id, "settle", json!({ "actualCostUsd": 9 })).await.expect_status(200);
    cut.database.quota("global * llm day", "5", "0").await;
    cut.host.at("2026-01-05T00:01:00Z");
    cut.on().await;
    let windows = "SELECT string_agg(window_start::date || ' ' || spend_usd::numeric(20,2), ', ')
                   FROM copilot_internal.cost_quota_periods WHERE scope = 'global'";
    assert_eq!(cut.database.value(windows).await, "2026-01-04 9.00");
    let open = "SELECT current_spend_usd::numeric(20,2) FROM copilot_internal.cost_quotas WHERE scope = 'global'";
    assert_eq!(cut.database.value(open).await, "0.00");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_settled_in_an_outage_alerts_nobody_of_a_window_that_is_over() {
    let cut = Cut::start(StoreFailure::Open).await;
    cut.host.at("2026-01-04T23:50:00Z");
    let (_, id) = cut.reserve("10").await;
    cut.off(Wire::Refuses).await;
    cut.end(&id, "settle", json!({ "actualCostUsd": 100 })).await.expect_status(200);
    cut.host.at("2026-01-05T00:01:00Z");
    cut.on().await;
    assert_eq!(cut.database.value("SELECT count(*) FROM copilot_internal.alerts").await, "0");
    let yesterday = "SELECT spend_usd::numeric(20,2) FROM copilot_internal.cost_quota_periods";
    assert_eq!(cut.database.value(yesterday).await, "100.00");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_in_the_books_is_set_aside_and_the_rest_is() {
    let cut = Cut::start(StoreFailure::Open).await;
    cut.host.cost(llm_cost("twice", "2")).await;
    cut.off(Wire::Refuses).await;
    // Of what was before the outage only the books know.
    cut.host.cost(llm_cost("twice", "3")).await;
    cut.host.cost(llm_cost("once", "4")).await;
    cut.on().await;
    assert_eq!(cut.books().await, "6.00 + 0.00 of 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_how_long_the_oldest_record_has_waited_for_the_store() {
    let cut = Cut::start(StoreFailure::Open).await;
    let waited = async |seconds: u32| {
        let metrics = cut.host.get("/metrics").await.text;
        let line = format!("tollgate_spool_oldest_seconds {seconds}");
        assert!(metrics.lines().any(|said| said == line), "{line}: {metrics}");
    };
    waited(0).await;
    cut.off(Wire::Refuses).await;
    cut.host.at("2026-01-04T12:00:00Z");
    cut.host.cost(llm_cost("first", "1")).await;
    cut.host.at("2026-01-04T12:01:30Z");
    cut.host.cost(llm_cost("second", "1")).await;
    waited(90).await;
    cut.on().await;
    waited(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn amounts_that_are_too_large_together_end_no_outage_late_and_are_in_the_books_in_full() {
    let cut = Cut::start(StoreFailure::Open).await;
    cut.off(Wire::Refuses).await;
    // Each is an amount, and ten of them are more than the books can count.
    for n in 0..10 {
        let huge = json!({ "tenantId": "globex", "resourceType": "llm", "costId": format!("c-{n}"), "actualCostUsd": "950000000" });
        cut.host.cost(huge).await;
    }
    cut.host.cost(llm_cost("small", "4")).await;
    cut.database.quota("tenant globex llm day", "1", "0").await;
    cut.on().await;
    assert_eq!(cut.books().await, "4.00 + 0.00 of 1");
    let huge = "SELECT current_spend_usd::bigint FROM copilot_internal.cost_quotas WHERE scope_id = 'globex'";
    assert_eq!(cut.database.value(huge).await, "1000000000");
    let recorded = "SELECT sum(actual_usd)::bigint FROM copilot_internal.cost_records WHERE tenant_id = 'globex'";
    assert_eq!(cut.database.value(recorded).await, "9500000000");
}
