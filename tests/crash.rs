//! Processes that end in the middle of their work: what was answered is in the books, once; what was not can be sent again.

mod load;
mod proxy;

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use tollgate::store::embedded;

use self::load::{Load, Told, value};
use self::proxy::Proxy;
use crate::harness::{Binary, Database, Scratch, guests, llm, until};

const BOOKS: &str =
    "SELECT current_spend_usd::numeric(20,2) || ' + ' || held_usd::numeric(20,2) || ' of ' || admitted_count
                     FROM copilot_internal.cost_quotas WHERE scope = 'tenant'";

fn serve(store: [&str; 2], environment: &[(&str, &str)]) -> Binary {
    let policies = guests::SHIPPED.to_str().expect("a text");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--log-level", "warn", "--policies", policies];
    Binary::start(&[&arguments[..], &store].concat(), environment)
}

/// With two quotas for whatever `acme-corp` does.
async fn limit(gate: &Binary) {
    for quota in ["tenant/acme-corp", "global/*"] {
        let path = format!("/v1/quotas/{quota}/llm/lifetime");
        gate.send("PUT", &path, json!({ "limitUsd": 1_000 })).await.expect_status(201);
    }
}

/// Once the time of all that is held is over nothing is held any more, and what fits passes again, to the cent.
async fn everything_held_comes_back(gate: &Binary, store: &PgConnectOptions) {
    let held = "SELECT sum(held_usd)::numeric(20,2)::text FROM copilot_internal.cost_quotas";
    until("what has expired is given back", || async { value(store, held).await == "0.00" }).await;
    let left = "SELECT min(limit_usd - current_spend_usd)::text FROM copilot_internal.cost_quotas";
    let left = value(store, left).await;
    let request = |usd: &str| json!({ "tenantId": "acme-corp", "resourceType": "llm", "estimatedCostUsd": usd });
    gate.send("POST", "/v1/reservations", request(&left)).await.expect_status(201);
    gate.send("POST", "/v1/reservations", request("0.000000001")).await.expect_status(429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_killed_in_mid_batch_loses_nothing_that_was_answered() {
    let database = Database::migrated().await;
    let url = database.url();
    let environment = [("DATABASE_URL", url.as_str())];
    let scratch = Scratch::new();
    let data = scratch.path().to_str().expect("a text");
    let hosts = [0, 1].map(|_| serve(["--data-dir", data], &environment));
    limit(&hosts[0]).await;
    let load = Load::start(&[&hosts[0].url, &hosts[1].url]);
    load.answers(300).await;
    let [victim, survivor] = hosts;
    victim.kill();
    load.answers(200).await;
    let told = load.stop().await;
    told.is_all_that_is_in_the_books(&database.options()).await;
    everything_held_comes_back(&survivor, &database.options()).await;
    survivor.kill();
}

/// Ends PostgreSQL as a power cut does; its data directory's `postmaster.pid` tells which process it is.
fn stop_at_once(cluster: &Path) {
    let pid = fs::read_to_string(cluster.join("postmaster.pid")).expect("a running server");
    let pid = pid.lines().next().and_then(|line| line.parse().ok()).expect("its process id");
    kill(Pid::from_raw(pid), Signal::SIGQUIT).expect("a running server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_stopped_at_once_under_load_loses_nothing_that_was_answered() {
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let gate = serve(["--data-dir", data.to_str().expect("a text")], &[]);
    let line = gate.said.lines().find_map(|line| line.split_once(" in ").filter(|_| line.contains("store")));
    let cluster = line.and_then(|(_, place)| place.rsplit_once(" (")).expect("where its store is").0.to_owned();
    limit(&gate).await;
    let load = Load::start(&[&gate.url]);
    for _ in 0..2 {
        load.answers(200).await;
        stop_at_once(Path::new(&cluster));
    }
    load.answers(200).await;
    let told: Told = load.stop().await;
    assert!(told.repetitions() <= 48, "at most what was under way: {}", told.repetitions());
    let store = embedded::running(&data).expect("no error").expect("a server that runs again");
    told.is_all_that_is_in_the_books(&store).await;
    everything_held_comes_back(&gate, &store).await;
    assert_eq!(gate.interrupt().code, Some(0));
    // Where the server's user cannot enter the folder, the cluster is somewhere else.
    let elsewhere = Path::new(&cluster).parent().filter(|parent| parent.starts_with("/var/lib/tollgate"));
    elsewhere.map(fs::remove_dir_all);
}

/// A host whose database's replies can be lost.
struct Lossy {
    gate: Binary,
    proxy: Proxy,
    database: Database,
}

impl Lossy {
    async fn start() -> Self {
        let database = Database::migrated().await;
        let options = database.options();
        let server = options.get_socket().expect("a socket");
        let proxy = Proxy::start(server);
        let in_url = |folder: &Path| folder.to_str().expect("a text").replace('/', "%2F");
        let url = database.url().replace(&in_url(server), &in_url(proxy.folder()));
        let data = Scratch::new();
        let gate = serve(["--data-dir", data.path().to_str().expect("a text")], &[("DATABASE_URL", &url)]);
        limit(&gate).await;
        Self { gate, proxy, database }
    }

    /// Sends something whose reply from the database is lost, and then again. Tells the second answer.
    async fn sends_twice(&self, path: &str, body: Value, marked: &[u8], books: &str) -> Value {
        self.proxy.swallow(marked);
        let lost = self.gate.send("POST", path, body.clone()).await;
        assert!(self.proxy.has_swallowed(), "{path}: {lost:?}");
        // The gate knows no more than that its store has not answered: it is kept, in case it is not in the books.
        assert!([200, 201].contains(&lost.status), "{path}: {lost:?}");
        assert_eq!(lost.at("/degraded"), true, "{path}: {lost:?}");
        let up = || async { self.gate.send("GET", "/readyz", json!(null)).await.at("/degraded") == false };
        until("the store is back", up).await;
        assert_eq!(self.database.value(BOOKS).await, books, "{path}");
        let again = self.gate.send("POST", path, body).await;
        assert!([200, 201].contains(&again.status), "{path}: {again:?}");
        assert_eq!(again.at("/duplicate"), true, "{path}: {again:?}");
        assert_eq!(self.database.value(BOOKS).await, books, "{path}, sent again");
        again.json()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_and_never_answered_counts_once_when_it_is_sent_again() {
    let lossy = Lossy::start().await;
    // The hot path's connection and its prepared statements are there already.
    lossy.gate.send("POST", "/v1/reservations", llm("1.00")).await.expect_status(201);
    let mut request = llm("2.00");
    request["requestId"] = json!("the-lost-request");
    let made = lossy.sends_twice("/v1/reservations", request, b"the-lost-request", "0.00 + 3.00 of 2").await;
    let id = made["reservationId"].as_str().expect("an id");

    let cost =
        json!({ "tenantId": "acme-corp", "resourceType": "llm", "costId": "the-lost-cost", "actualCostUsd": "4" });
    lossy.sends_twice("/v1/costs", cost, b"the-lost-cost", "4.00 + 3.00 of 3").await;

    let bytes = id.parse::<uuid::Uuid>().expect("a UUID").into_bytes();
    let settle = json!({ "tenantId": "acme-corp", "actualCostUsd": "2.50" });
    lossy.sends_twice(&format!("/v1/reservations/{id}/settle"), settle, &bytes, "6.50 + 1.00 of 3").await;

    let other = lossy.gate.send("POST", "/v1/reservations", llm("5.00")).await.expect_status(201);
    let id = other.word("/reservationId");
    // Its decision has the same id, and is not what is to be lost.
    let logged = format!("SELECT count(*) FROM copilot_internal.decisions WHERE id = '{id}'");
    until("the decision is in its log", || async { lossy.database.value(&logged).await == "1" }).await;
    let bytes = id.parse::<uuid::Uuid>().expect("a UUID").into_bytes();
    let release = json!({ "tenantId": "acme-corp" });
    lossy.sends_twice(&format!("/v1/reservations/{id}/release"), release, &bytes, "6.50 + 1.00 of 4").await;
    lossy.gate.kill();
}
