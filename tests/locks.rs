//! The lock order: whatever moves money locks quotas by id, then reservations. Where everybody does, nobody deadlocks.

mod stuck;

use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tokio::task::JoinSet;
use tollgate::gate::Gate;
use tollgate::store::Store;
use tollgate::worker;

use crate::harness::{Answer, Database, ENFORCED, Host, Setup, guests, llm, llm_cost, until};

/// Their rows lie in another order than that of their ids.
const QUOTAS: &str = "
    INSERT INTO copilot_internal.cost_quotas (id, scope, scope_id, resource_type, period, limit_usd, period_start)
    VALUES ('00000000-0000-0000-0000-000000000003', 'tenant', 'acme-corp', 'llm', 'day', 50, '2026-01-04 00:00Z'),
           ('00000000-0000-0000-0000-000000000001', 'tenant', 'acme-corp', 'llm', 'hour', 50, '2026-01-04 12:00Z'),
           ('00000000-0000-0000-0000-000000000004', 'global', '*', 'llm', 'day', 50, '2026-01-04 00:00Z'),
           ('00000000-0000-0000-0000-000000000002', 'global', '*', 'llm', 'hour', 50, '2026-01-04 12:00Z')";

const HOLD: &str =
    "BEGIN; SELECT FROM copilot_internal.cost_quotas WHERE id = '00000000-0000-0000-0000-000000000001' FOR UPDATE";
const WAITING: &str = "SELECT count(*) > 0 FROM pg_stat_activity
                       WHERE datname = current_database() AND application_name = 'tollgate' AND wait_event_type = 'Lock'";
const LOCKED: &str = "
    SELECT (SELECT count(*) FROM copilot_internal.cost_quotas) + (SELECT count(*) FROM copilot_internal.reservations)
         - (SELECT count(*) FROM (SELECT FROM copilot_internal.cost_quotas FOR UPDATE SKIP LOCKED) AS q)
         - (SELECT count(*) FROM (SELECT FROM copilot_internal.reservations FOR UPDATE SKIP LOCKED) AS r)";

async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.expect("a database that answers");
}

/// While somebody has the lock of the first quota, what waits for it has none: the first quota comes first.
async fn waits_with_empty_hands<T>(host: &Host, what: &str, work: impl Future<Output = T> + Send + 'static) -> T
where
    T: Send + 'static,
{
    let mut holder = host.database.options().connect().await.expect("a connection");
    execute(&mut holder, HOLD).await;
    let work = tokio::spawn(work);
    until(&format!("{what} waits for the lock"), || async { host.database.value(WAITING).await == "t" }).await;
    // The first quota is locked, by us; nothing else is.
    assert_eq!(host.database.value(LOCKED).await, "1", "locked while {what} waits for the first quota");
    holder.close().await.expect("a closed connection");
    work.await.expect("no panic")
}

/// A request that must succeed, once it is no longer kept waiting.
async fn sends(host: &Host, path: &str, body: Value) -> Answer {
    let answer = waits_with_empty_hands(host, path, Answer::of(host.request("POST", path).json(&body))).await;
    assert!([200, 201].contains(&answer.status), "{path}: {answer:?}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_moves_money_locks_the_quotas_by_id_and_then_the_reservations() {
    let host = Host::start().await;
    host.database.run(QUOTAS).await;
    let reserve = "/v1/reservations";
    let first = host.post(reserve, llm("1")).await.expect_status(201).word("/reservationId");
    let second = host.post(reserve, llm("1")).await.expect_status(201).word("/reservationId");
    host.post(reserve, llm("1")).await.expect_status(201);

    sends(&host, reserve, llm("1")).await;
    sends(&host, "/v1/costs", llm_cost("c-1", "1")).await;
    let settle = json!({ "tenantId": "acme-corp", "actualCostUsd": "2" });
    sends(&host, &format!("/v1/reservations/{first}/settle"), settle).await;
    sends(&host, &format!("/v1/reservations/{second}/release"), json!({ "tenantId": "acme-corp" })).await;

    // A host that has lost to another one locks before it decides.
    let beside = host.beside().await;
    beside.post(reserve, llm("1")).await.expect_status(201);
    host.post(reserve, llm("1")).await.expect_status(201);
    sends(&host, reserve, llm("1")).await;

    let store = Store::new(host.database.options());
    let gate = Gate::start(
        store.clone(),
        guests::shipped(),
        ENFORCED,
        host.clock.clone(),
        crate::harness::outages(tollgate::gate::StoreFailure::Closed),
    );
    host.clock.advance(TimeDelta::seconds(301));
    let expires = async move { worker::expire(&gate).await.expect("a database that answers") };
    waits_with_empty_hands(&host, "expiry", expires).await;
    let held = "SELECT sum(held_usd) FROM copilot_internal.cost_quotas";
    assert_eq!(host.database.value(held).await, "0.000000000");

    host.at("2026-01-05T00:00:00Z");
    // What somebody has is for the next time.
    let closed = "SELECT count(*) FROM copilot_internal.cost_quota_periods";
    let mut holder = host.database.options().connect().await.expect("a connection");
    execute(&mut holder, HOLD).await;
    worker::roll_over(&store, &host.clock).await.expect("a database that answers");
    assert_eq!(host.database.value(closed).await, "3");
    execute(&mut holder, "COMMIT").await;
    holder.close().await.expect("a closed connection");
    worker::roll_over(&store, &host.clock).await.expect("a database that answers");
    assert_eq!(host.database.value(closed).await, "4");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_the_pool_are_used_again() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "10", "0").await;
    let id = host.post("/v1/reservations", llm("1")).await.expect_status(201).word("/reservationId");
    let path = format!("/v1/reservations/{id}?tenantId=acme-corp");
    host.get(&path).await.expect_status(200);
    let before = host.database.value("SELECT clock_timestamp()").await;
    for _ in 0..20 {
        host.get(&path).await.expect_status(200);
    }
    // Whoever gives one back asks whether it is in a transaction.
    let there = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity
         WHERE datname = current_database() AND query LIKE '%statement_timestamp%' AND backend_start < '{before}'
           AND query_start > '{before}' AND pid <> pg_backend_pid()"
    );
    until("one from before is used", || async { host.database.value(&there).await == "t" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_waited_for_a_row_goes_on_with_it_however_the_database_isolates_others() {
    let database = Database::migrated().await;
    let isolated = "DO $$ BEGIN EXECUTE format(
        'ALTER DATABASE %I SET default_transaction_isolation = %L', current_database(), 'repeatable read'); END $$";
    database.run(isolated).await;
    let host = Setup { database: Some(database), ..Setup::default() }.start().await;
    host.database.quota("tenant acme-corp llm day", "50", "0").await;
    let mut holder = host.database.options().connect().await.expect("a connection");
    execute(&mut holder, "BEGIN; UPDATE copilot_internal.cost_quotas SET limit_usd = 40").await;
    let cost = tokio::spawn(Answer::of(host.request("POST", "/v1/costs").json(&llm_cost("c-1", "1"))));
    until("it waits for the row", || async { host.database.value(WAITING).await == "t" }).await;
    execute(&mut holder, "COMMIT").await;
    let recorded = cost.await.expect("no panic").expect_status(200);
    assert_eq!(recorded.at("/quotas/0/quotaDetails/limitUsd"), json!(40.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_denied_beside_a_hold_that_could_not_be_written() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "10", "0").await;
    let mut holder = host.database.options().connect().await.expect("a connection");
    execute(&mut holder, "BEGIN; UPDATE copilot_internal.cost_quotas SET limit_usd = 10").await;
    let reserve = |usd: &str| tokio::spawn(Answer::of(host.request("POST", "/v1/reservations").json(&llm(usd))));
    let first = reserve("1");
    until("the first waits for the row", || async { host.database.value(WAITING).await == "t" }).await;
    // These are the next batch. Each fits alone, and together they do not; and no hold of theirs gets written either.
    let others = [reserve("8"), reserve("8")];
    for answer in [first].into_iter().chain(others) {
        let answer = answer.await.expect("no panic").expect_status(503);
        assert_eq!(answer.word("/error"), "overloaded");
    }
    holder.close().await.expect("a closed connection");
    host.post("/v1/reservations", llm("10")).await.expect_status(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_decision_log_that_somebody_has_locked() {
    let host = Host::start().await;
    host.database.quota("tenant acme-corp llm day", "1", "1").await;
    let mut holder = host.database.options().connect().await.expect("a connection");
    execute(&mut holder, "BEGIN; LOCK TABLE copilot_internal.decisions").await;
    // More than the queue of the log and what is being written take.
    let mut asking = JoinSet::new();
    for _ in 0..32 {
        let requests: Vec<_> = (0..300).map(|_| host.request("POST", "/v1/check").json(&llm("1"))).collect();
        asking.spawn(async move {
            for request in requests {
                Answer::of(request).await.expect_status(429);
            }
        });
    }
    asking.join_all().await;
    holder.close().await.expect("a closed connection");
    // What it had room for is there.
    let stored = "SELECT count(*) >= 8192 FROM copilot_internal.decisions";
    until("what was kept is in the log", || async { host.database.value(stored).await == "t" }).await;
}
