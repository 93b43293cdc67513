//! While the store cannot be reached the gate answers as its mode says; afterwards every cost is in the books once.

mod late;
mod once;
mod promised;
mod replay;
pub mod switch;
mod table;

use serde_json::{Value, json};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tollgate::gate::StoreFailure;
use tollgate::money::Money;
use tollgate::spool::{Disk, Local};

use self::switch::{Switch, Wire};
use crate::harness::{Answer, Binary, Database, Host, Scratch, Setup, guests, in_time, llm, llm_cost, tollgate, until};

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
async fn a_store_that_is_silent_is_down_too_and_heals() {
    let cut = Cut::start(StoreFailure::Open).await;
    cut.switch.now(Wire::IsSilent);
    // Nobody knows yet: this request finds out, with the probe.
    let check = cut.host.check(llm("1")).await.expect_status(200);
    assert_eq!(check.at("/degraded"), json!(true));
    cut.host.cost(llm_cost("silent", "2")).await;
    cut.on().await;
    assert_eq!(cut.books().await, "2.00 + 0.00 of 1");
    assert_eq!(cut.host.check(llm("1")).await.at("/degraded"), json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_silent_store_on_the_administrators_routes_either() {
    let cut = Cut::start(StoreFailure::Open).await;
    let (_, id) = cut.reserve("1").await;
    let read = format!("/v1/reservations/{id}?tenantId=acme-corp");
    let paths = ["/v1/quotas", "/v1/tenants/acme-corp", "/v1/decisions", "/v1/alerts", "/v1/audit", &read];
    // Each has a connection that it would wait on.
    for path in paths {
        cut.host.get(path).await;
    }
    cut.switch.now(Wire::IsSilent);
    cut.is_degraded(true).await;
    for path in paths {
        let answer = in_time(path, cut.host.get(path)).await.expect_status(503);
        assert_eq!(answer.word("/error"), "store_unavailable", "{path}");
    }
    let put = cut.host.put("/v1/tenants/acme-corp", json!({ "tier": "pro" })).await.expect_status(503);
    assert_eq!(put.word("/error"), "store_unavailable");
    // What is wrong in any case is told in any case.
    cut.host.get("/v1/quotas?scope=team").await.expect_status(400);
    cut.host.get("/v1/policies").await.expect_status(200);
    cut.on().await;
    cut.host.put("/v1/tenants/acme-corp", json!({ "tier": "pro" })).await;
    assert_eq!(cut.host.get("/v1/tenants/acme-corp").await.expect_status(200).word("/tier"), "pro");
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
async fn a_request_id_is_one_reservation_in_an_outage_too() {
    let cut = Cut::start(StoreFailure::Open).await;
    cut.off(Wire::Refuses).await;
    let mut request = llm("10");
    request["requestId"] = json!("r-1");
    let first = cut.host.post("/v1/reservations", request.clone()).await.expect_status(201);
    let again = cut.host.post("/v1/reservations", request.clone()).await.expect_status(201);
    assert_eq!(again.word("/reservationId"), first.word("/reservationId"));
    assert_eq!(again.at("/duplicate"), json!(true));
    let mut other = request.clone();
    other["estimatedCostUsd"] = json!(11);
    cut.host.post("/v1/reservations", other).await.expect_status(409);
    cut.on().await;
    assert_eq!(cut.books().await, "0.00 + 10.00 of 1");
    let later = cut.host.post("/v1/reservations", request).await.expect_status(201);
    assert_eq!(again.at("/degraded"), json!(true));
    let mut expected = again.json();
    expected.as_object_mut().expect("an object").remove("degraded");
    assert_eq!(later.json(), expected);
    assert_eq!(cut.books().await, "0.00 + 10.00 of 1");
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
async fn another_host_settles_what_one_has_promised_and_it_is_in_the_books_when_that_one_is_back() {
    let cut = Cut::start(StoreFailure::Open).await;
    let other = cut.host.beside().await;
    cut.off(Wire::Refuses).await;
    let (_, id) = cut.reserve("10").await;
    let settle = json!({ "tenantId": "acme-corp", "actualCostUsd": 4 });
    for _ in 0..2 {
        let kept = other.post(&format!("/v1/reservations/{id}/settle"), settle.clone()).await.expect_status(200);
        assert_eq!(kept.at("/degraded"), json!(true));
    }
    assert_eq!(cut.books().await, "0.00 + 0.00 of 0");
    cut.on().await;
    until("it is in the books", || async { cut.books().await == "4.00 + 0.00 of 1" }).await;
    let again = other.post(&format!("/v1/reservations/{id}/settle"), settle).await.expect_status(200);
    assert_eq!(again.at("/duplicate"), json!(true));
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
async fn what_ends_a_reservation_that_nobody_knows_waits_for_a_day_and_is_then_set_aside() {
    let cut = Cut::start(StoreFailure::Open).await;
    cut.off(Wire::Refuses).await;
    let nobody = "00000000-0000-7000-8000-000000000000";
    cut.end(nobody, "settle", json!({ "actualCostUsd": 1 })).await.expect_status(200);
    cut.on().await;
    let spool = || std::fs::read_dir(cut.host.spool.path()).expect("a folder").flatten();
    let bytes = || spool().map(|file| file.metadata().map_or(0, |file| file.len())).sum::<u64>();
    let is_aside = || spool().any(|file| file.path().extension().is_some_and(|extension| extension == "rejected"));
    assert!(bytes() > 0 && !is_aside());
    cut.host.at("2026-01-05T14:00:00Z");
    until("it is set aside", || async { is_aside() }).await;
}

fn serve(data: &Scratch, url: &str, mode: &str) -> Binary {
    let policies = guests::SHIPPED.to_str().expect("a text");
    let data = data.path().to_str().expect("a text");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--policies", policies, "--data-dir", data];
    Binary::start(&[&arguments[..], &["--store-failure", mode]].concat(), &[("DATABASE_URL", url)])
}

/// The address of `database` through `switch`.
pub fn through(switch: &Switch, database: &Database) -> String {
    let in_url = |folder: &std::path::Path| folder.to_str().expect("a text").replace('/', "%2F");
    let server: PgConnectOptions = database.options();
    database.url().replace(&in_url(server.get_socket().expect("a socket")), &in_url(switch.folder()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_starts_while_its_store_is_down_serves_and_what_a_killed_one_kept_is_not_lost() {
    let database = Database::migrated().await;
    let switch = Switch::new(database.options().get_socket().expect("a socket"));
    let (url, data) = (through(&switch, &database), Scratch::new());
    switch.now(Wire::Refuses);
    let gate = serve(&data, &url, "open");
    let made = gate.send("POST", "/v1/reservations", llm("10")).await.expect_status(201);
    assert_eq!(made.at("/degraded"), json!(true));
    gate.send("POST", "/v1/costs", llm_cost("kept", "3")).await.expect_status(200);
    let metrics = gate.send("GET", "/metrics", json!(null)).await.text;
    for line in [
        "tollgate_store_up 0",
        "tollgate_spool_records 2",
        "tollgate_decisions_total{resource_type=\"llm\",outcome=\"degraded\",mode=\"reserve\"} 1",
    ] {
        assert!(metrics.lines().any(|said| said == line), "{line}: {metrics}");
    }
    gate.kill();
    // The host is gone: its oldest record says when that was.
    let folder = data.path().to_str().expect("a text");
    let doctor = tollgate(&["doctor", "--data-dir", folder], &[("DATABASE_URL", &url)]);
    let findings = String::from_utf8_lossy(&doctor.stdout);
    assert!(findings.contains("wait for the store, the oldest since 20"), "{findings}");
    let gate = serve(&data, &url, "open");
    let settle = json!({ "tenantId": "acme-corp", "actualCostUsd": 8 });
    let path = format!("/v1/reservations/{}/settle", made.word("/reservationId"));
    gate.send("POST", &path, settle.clone()).await.expect_status(200);
    switch.now(Wire::Forwards);
    let up = || async { gate.send("GET", "/readyz", json!(null)).await.at("/degraded") == json!(false) };
    until("the store is back", up).await;
    let books = "SELECT (SELECT sum(actual_usd) FROM copilot_internal.cost_records)::numeric(20,2) || ' ' ||
                        (SELECT sum(actual_usd) FROM copilot_internal.reservations)::numeric(20,2)";
    assert_eq!(database.value(books).await, "3.00 8.00");
    let again = gate.send("POST", &path, settle).await.expect_status(200);
    assert_eq!(again.at("/duplicate"), json!(true));
    assert_eq!(gate.interrupt().code, Some(0));
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
async fn when_there_is_no_more_room_for_costs_the_caller_is_told_and_what_was_kept_is_not_lost() {
    let database = Database::migrated().await;
    let switch = Switch::new(database.options().get_socket().expect("a socket"));
    let (url, data) = (through(&switch, &database), Scratch::new());
    switch.now(Wire::Refuses);
    let policies = guests::SHIPPED.to_str().expect("a text");
    let data_dir = data.path().to_str().expect("a text");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--policies", policies, "--data-dir", data_dir];
    let gate = Binary::start(&arguments, &[("DATABASE_URL", &url), ("TOLLGATE_SPOOL_MIB", "1")]);
    let mut kept = 0;
    let refused = loop {
        let mut cost = llm_cost(&format!("cost-{kept}"), "1");
        cost["attributes"] = json!({ "note": "x".repeat(60_000) });
        let answer = gate.send("POST", "/v1/costs", cost).await;
        if answer.status != 200 {
            break answer;
        }
        kept += 1;
    };
    assert_eq!((refused.status, refused.word("/error").as_str()), (507, "spool_full"));
    assert!(kept >= 10, "{kept}");
    switch.now(Wire::Forwards);
    let up = || async { gate.send("GET", "/readyz", json!(null)).await.at("/degraded") == json!(false) };
    until("the store is back", up).await;
    assert_eq!(database.value("SELECT count(*)::text FROM copilot_internal.cost_records").await, kept.to_string());
    gate.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_stops_in_an_outage_and_loses_nothing() {
    let database = Database::migrated().await;
    let switch = Switch::new(database.options().get_socket().expect("a socket"));
    let (url, data) = (through(&switch, &database), Scratch::new());
    let gate = serve(&data, &url, "closed");
    switch.now(Wire::IsSilent);
    gate.send("POST", "/v1/costs", llm_cost("kept", "3")).await.expect_status(200);
    assert_eq!(gate.interrupt().code, Some(0));
    switch.now(Wire::Forwards);
    let gate = serve(&data, &url, "closed");
    let up = || async { gate.send("GET", "/readyz", json!(null)).await.at("/degraded") == json!(false) };
    until("the store is back", up).await;
    let books = "SELECT sum(actual_usd)::numeric(20,2)::text FROM copilot_internal.cost_records";
    assert_eq!(database.value(books).await, "3.00");
    assert_eq!(gate.interrupt().code, Some(0));
}
