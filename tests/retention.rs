//! The decision log's days: each has a partition, made before it comes and dropped when it is too old.

mod before_days;

use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::harness::{Host, Setup, guests, tollgate, until};

const DAYS: &str = "SELECT coalesce(string_agg(substr(c.relname, 11), ' ' ORDER BY c.relname), '')
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'copilot_internal.decisions'::regclass AND c.relname <> 'decisions_default'";
const OF_NO_DAY: &str = "SELECT count(*) FROM copilot_internal.decisions_default";

async fn has_days(host: &Host, days: &str) {
    until(days, || async { host.database.value(DAYS).await == days }).await;
}

/// A host whose days are made, with a quota that the tenant `poor` has used up.
async fn host(setup: Setup) -> Host {
    let host = setup.start().await;
    host.database.quota("tenant poor llm day", "0.01", "0").await;
    has_days(&host, "2026_01_04 2026_01_05 2026_01_06 2026_01_07").await;
    host
}

/// Checks, and waits until the decision is in the log; its id.
async fn decided(host: &Host, tenant: &str) -> String {
    let request = json!({ "tenantId": tenant, "resourceType": "llm" });
    let answer = host.check(request).await;
    host.get("/v1/decisions?limit=1").await.expect_status(200);
    answer.word("/decisionId")
}

async fn listed(host: &Host) -> Vec<String> {
    let answer = host.get("/v1/decisions?limit=1000").await.expect_status(200);
    let decisions = answer.at("/decisions").as_array().cloned().unwrap_or_default();
    decisions.iter().filter_map(|decision| decision["decisionId"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_kept_in_their_day_and_go_with_it_while_younger_ones_are_listed_explained_and_replayed() {
    let host = host(Setup::default()).await;
    let url = host.database.url();
    let first = decided(&host, "poor").await;
    host.at("2026-01-05T23:59:59.999Z");
    let second = decided(&host, "poor").await;
    host.at("2026-01-06T00:00:00Z");
    let third = decided(&host, "acme-corp").await;
    let in_days = "SELECT string_agg(substr(tableoid::regclass::text, 28) || ' ' || id, ', ' ORDER BY decided_at)
                   FROM copilot_internal.decisions";
    assert_eq!(
        host.database.value(in_days).await.replace("decisions_", ""),
        format!("2026_01_04 {first}, 2026_01_05 {second}, 2026_01_06 {third}")
    );
    has_days(&host, "2026_01_04 2026_01_05 2026_01_06 2026_01_07 2026_01_08 2026_01_09").await;

    // Thirty days after the first day's end its decisions are all too old; the second day's are not.
    host.at("2026-02-04T00:00:00Z");
    has_days(
        &host,
        "2026_01_05 2026_01_06 2026_01_07 2026_01_08 2026_01_09 2026_02_04 2026_02_05 2026_02_06 2026_02_07",
    )
    .await;
    let fourth = decided(&host, "acme-corp").await;
    assert_eq!(listed(&host).await, [fourth, third.clone(), second.clone()]);
    host.get(&format!("/v1/decisions/{first}")).await.expect_status(404);
    for (id, outcome) in [(&second, "denied"), (&third, "allowed")] {
        let stored = host.get(&format!("/v1/decisions/{id}")).await.expect_status(200);
        assert_eq!(stored.at("/outcome"), outcome);
        let explained = tollgate(&["decision", "explain", id], &[("DATABASE_URL", &url)]);
        let explained = String::from_utf8(explained.stdout).expect("a text");
        assert!(explained.contains(id.as_str()) && explained.contains(outcome), "{explained}");
    }
    let candidate = guests::SHIPPED.join("standard.wasm");
    let candidate = candidate.to_str().expect("a text");
    let replayed = tollgate(
        &["policy", "replay", candidate, "--since", "2026-01-01T00:00:00Z", "--json"],
        &[("DATABASE_URL", &url)],
    );
    let report: Value = serde_json::from_slice(&replayed.stdout).expect("a report");
    assert_eq!((&report["decisions"], &report["same"]), (&json!(3), &json!(3)), "{report}");
    assert_eq!(host.database.value(OF_NO_DAY).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_limit_everything_is_kept() {
    let host = host(Setup { keep_days: None, ..Setup::default() }).await;
    let first = decided(&host, "poor").await;
    host.at("2029-02-04T00:00:00Z");
    has_days(&host, "2026_01_04 2026_01_05 2026_01_06 2026_01_07 2029_02_04 2029_02_05 2029_02_06 2029_02_07").await;
    assert_eq!(listed(&host).await, [first]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_one_database_make_and_drop_each_day_once_and_lose_no_decision_meanwhile() {
    let host = host(Setup { keep_days: Some(2), ..Setup::default() }).await;
    let beside = Setup {
        clock: host.clock.clone(),
        database: Some(host.database.clone()),
        keep_days: Some(2),
        ..Setup::default()
    };
    let beside = beside.start().await;
    let mut expected = Vec::new();
    for day in 4..=9 {
        host.at(&format!("2026-01-{day:02}T12:00:00Z"));
        expected.clear();
        // While both change the days, both write.
        for _ in 0..15 {
            let (one, other) = tokio::join!(decided(&host, "poor"), decided(&beside, "acme-corp"));
            expected.extend([one, other]);
        }
        let kept = (day - 2).max(4);
        let days: Vec<String> = (kept..=day + 3).map(|day| format!("2026_01_{day:02}")).collect();
        has_days(&host, &days.join(" ")).await;
        let there = listed(&host).await;
        assert!(expected.iter().all(|id| there.contains(id)), "{expected:?} are not all in {there:?}");
        assert_eq!(there.len(), 30 * usize::try_from(day - kept + 1).expect("a count"));
        assert_eq!(host.database.value(OF_NO_DAY).await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_an_old_day_keeps_it_and_delays_nobody() {
    let host = host(Setup::default()).await;
    decided(&host, "poor").await;
    let mut reader = host.database.options().connect().await.expect("a connection");
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM copilot_internal.decisions_2026_01_04")
        .execute(&mut reader)
        .await
        .expect("a count");
    host.at("2026-02-04T00:00:00Z");
    until("the day that has come", || async { host.database.value(DAYS).await.ends_with("2026_02_07") }).await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%drop_day_of_decisions%' AND datname = current_database()
                 AND pid <> pg_backend_pid()";
    until("somebody has tried to drop it", || async { host.database.value(waits).await != "0" }).await;
    // As long as it is read, it is there; what is decided now is written all the same.
    let now = decided(&host, "acme-corp").await;
    assert!(host.database.value(DAYS).await.starts_with("2026_01_04"));
    assert_eq!(listed(&host).await.first(), Some(&now));
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.expect("the end");
    reader.close().await.expect("a closed connection");
    until("it is dropped", || async { host.database.value(DAYS).await.starts_with("2026_01_05") }).await;
    assert_eq!(listed(&host).await, [now]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_any_time_finds_a_place_and_moves_into_its_day_or_goes_when_it_is_too_old() {
    let host = host(Setup::default()).await;
    let sample = decided(&host, "poor").await;
    let at = |instant: &str| {
        format!(
            "INSERT INTO copilot_internal.decisions
             SELECT gen_random_uuid(), '{instant}', tenant_id, user_id, resource_type, estimate_usd, request_id, outcome,
                    code, reason, quota_id, policy_name, policy_digest, facts
             FROM copilot_internal.decisions WHERE id = '{sample}';
             INSERT INTO copilot_internal.policy_disagreements
             SELECT gen_random_uuid(), 'sha256:c', '{instant}', 'poor', 'llm', 'standard', 'sha256:l', 'denied', NULL, 'allowed'"
        )
    };
    for instant in ["2025-12-05T10:00:00Z", "2025-12-20T10:00:00Z", "2026-01-08T10:00:00Z", "2026-06-01T00:00:00Z"] {
        host.database.run(&at(instant)).await;
    }
    assert_eq!(host.database.value(OF_NO_DAY).await, "4");
    let looked = tollgate(&["doctor"], &[("DATABASE_URL", &host.database.url())]);
    let looked = String::from_utf8(looked.stdout).expect("a text");
    assert!(looked.contains("  note      4 decisions are in no day's partition\n"), "{looked}");
    let stray = "SELECT id::text FROM copilot_internal.decisions_default WHERE decided_at < '2025-12-06'";
    let stray = host.database.value(stray).await;
    // Of an id that is not the host's nobody knows the time; it is found all the same.
    host.get(&format!("/v1/decisions/{stray}")).await.expect_status(200);
    host.at("2026-01-05T12:00:00Z");
    until("only those of days that are not made yet", || async { host.database.value(OF_NO_DAY).await == "2" }).await;
    assert_eq!(host.database.value("SELECT count(*) FROM copilot_internal.decisions_2026_01_08").await, "1");
    host.get(&format!("/v1/decisions/{stray}")).await.expect_status(404);
    let left = "SELECT string_agg((decided_at AT TIME ZONE 'UTC')::date::text, ' ' ORDER BY decided_at) FROM copilot_internal.";
    assert_eq!(host.database.value(&format!("{left}policy_disagreements")).await, "2025-12-20 2026-01-08 2026-06-01");
    assert_eq!(host.database.value(&format!("{left}decisions_default")).await, "2025-12-20 2026-06-01");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_only_the_log_knows_is_listed_for_a_week_of_it() {
    let host = host(Setup::default()).await;
    let url = host.database.url();
    let is_listed = |tenant: &str| {
        let listed = tollgate(&["tenant", "list"], &[("DATABASE_URL", &url)]);
        let listed = String::from_utf8(listed.stdout).expect("a text");
        assert!(listed.contains("poor"), "its quota is known: {listed}");
        listed.contains(tenant)
    };
    decided(&host, "passing-by").await;
    host.at("2026-01-11T12:00:00Z");
    decided(&host, "acme-corp").await;
    assert!(is_listed("passing-by") && is_listed("acme-corp"));
    host.at("2026-01-11T12:00:00.001Z");
    decided(&host, "acme-corp").await;
    assert!(!is_listed("passing-by") && is_listed("acme-corp"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_clock_is_far_ahead_drops_no_day() {
    let host = Host::start().await;
    host.database
        .run(
            "SELECT copilot_internal.make_day_of_decisions(current_date - age) FROM unnest(ARRAY[1, 40]) AS age;
             INSERT INTO copilot_internal.decisions
                 (id, decided_at, tenant_id, resource_type, estimate_usd, outcome, policy_name, policy_digest, facts)
             SELECT gen_random_uuid(), now() - age * interval '1 day', 'acme-corp', 'llm', 0.05, 'allowed', 'standard',
                    'sha256:x', '{}'
             FROM unnest(ARRAY[1, 40]) AS age",
        )
        .await;
    host.at("2100-01-01T00:00:00Z");
    // What is too old by the database's clock goes: then the host has looked.
    let ages =
        "SELECT coalesce(string_agg(current_date - decided_at::date || '', ' '), '') FROM copilot_internal.decisions";
    until("the older one is gone", || async { host.database.value(ages).await == "1" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_somebody_detaches_is_not_dropped() {
    let host = host(Setup::default()).await;
    let detach = "ALTER TABLE copilot_internal.decisions DETACH PARTITION copilot_internal.decisions_2026_01_04";
    host.database.run(detach).await;
    // As a host that has listed the days before.
    host.database.run("SELECT copilot_internal.drop_day_of_decisions('2026-01-04')").await;
    let kept = "SELECT to_regclass('copilot_internal.decisions_2026_01_04') IS NOT NULL";
    assert_eq!(host.database.value(kept).await, "t");
    host.database.run("SELECT copilot_internal.drop_day_of_decisions('2026-01-05')").await;
    assert_eq!(host.database.value(&kept.replace("01_04", "01_05")).await, "f");
}
