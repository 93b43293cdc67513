//! What each case of the corpus comes to, and what everybody else feels of it: a table, by hand, since it measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{ask, besieged, corpus};
use crate::harness::{Answer, Host};

/// How long each case is attacked.
const SIEGE: Duration = Duration::from_secs(2);
/// Clients that attack, and clients that want to be left alone; each sends its next request when it has its answer.
const CLIENTS: usize = 4;

/// Sends checks as these tenants until it is told to stop; what each took.
async fn load(host: &Host, tenants: Vec<String>, stop: &Arc<AtomicBool>, status: &[u16]) -> Vec<Duration> {
    let clients: Vec<_> = tenants
        .into_iter()
        .map(|tenant| {
            let body = json!({ "tenantId": tenant, "resourceType": "llm", "estimatedCostUsd": "2.00" });
            let (request, stop) = (host.request("POST", "/v1/check").json(&body), stop.clone());
            let status = status.to_vec();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    let answer = Answer::of(request.try_clone().expect("a body in memory")).await;
                    times.push(started.elapsed());
                    assert!(status.contains(&answer.status), "{answer:?}");
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.append(&mut client.await.expect("no panic"));
    }
    times.sort_unstable();
    times
}

/// The p99 of everybody else while the tenants of `case` ask.
async fn felt(host: &Host, case: &str) -> Duration {
    let stop = Arc::new(AtomicBool::new(false));
    let attackers = (0..CLIENTS).map(|n| format!("{case}-{n}")).collect();
    let others = (0..CLIENTS).map(|n| format!("other-{n}")).collect();
    let until = async {
        tokio::time::sleep(SIEGE).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (_, times, ()) =
        tokio::join!(load(host, attackers, &stop, &[200, 503]), load(host, others, &stop, &[200]), until);
    times[times.len() * 99 / 100]
}

/// Of this process, in MiB.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<i64>().expect("a number") / 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn what_each_hostile_policy_comes_to_as_a_table() {
    let mut cases = corpus();
    for case in &mut cases {
        if case.kind == "timeout" {
            // As long as a policy has in production.
            case.manifest = "";
        }
    }
    let host = besieged(&cases).await;
    host.database
        .run(&format!(
            "INSERT INTO copilot_internal.tenants (tenant_id, tier)
             SELECT tier || '-' || n, tier FROM copilot_internal.tenants, generate_series(0, {}) AS n",
            CLIENTS - 1
        ))
        .await;
    felt(&host, "nobody").await;
    let idle = resident();
    println!(
        "resident at first {idle} MiB; the machine's mood is in both p99, so they are taken right after each other\n"
    );
    println!("| case | kind | first answer | others' p99 beside good tenants | beside it | resident | message |");
    println!("|---|---|---|---|---|---|---|");
    for case in &cases {
        let started = Instant::now();
        let answer = ask(&host, case.name).await.expect_status(503);
        let took = started.elapsed();
        let message = answer.at("/message");
        let message = message.as_str().and_then(|message| message.split_once(": ")).map_or("", |(_, cause)| cause);
        let quiet = felt(&host, "nobody").await;
        let beside = felt(&host, case.name).await;
        let brief: String = message.chars().take(100).collect();
        let grown = resident() - idle;
        println!(
            "| {} | {} | {took:.1?} | {quiet:.1?} | {beside:.1?} | {grown:+} MiB | {brief} |",
            case.name, case.kind
        );
    }
    host.get("/livez").await.expect_status(200);
}
