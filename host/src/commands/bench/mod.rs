//! `bench`: how fast the gate is here, beside a bare web server and a bare database in the same run.

mod load;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::postgres::PgConnectOptions;

use self::load::{Figures, Next, Turn, post};
use super::Failure;
use crate::alert::{Channels, Extras};
use crate::api::auth::{Access, Transport};
use crate::api::{App, bare};
use crate::cli::BenchArgs;
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::gate::{Enforcement, Gate, Outages, StoreFailure};
use crate::policy::{Folder, Workshop};
use crate::server::{self, Listener};
use crate::spool::Spool;
use crate::store::Store;
use crate::store::embedded::Embedded;
use crate::worker::alerts::Alerting;

const POOLED: usize = 100;
const CONNECTIONS: [usize; 4] = [1, 32, 50, 256];

/// One line of the table.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    what: String,
    connections: usize,
    per_second: u64,
    p50_micros: u128,
    p99_micros: u128,
    /// Of the bare handler's rate at as many connections right before and after, in tenths of a percent.
    permille_of_bare: Option<u64>,
}

/// Measures, and prints a line as soon as it is known.
pub(super) async fn run(args: BenchArgs) -> Result<(), Failure> {
    let config = Config::load(
        args.store.config.as_deref(),
        &[("data_dir", args.store.data_dir.clone()), ("policies", args.policies)],
    )?;
    let scratch = config.data_dir.join(format!("bench-{}", std::process::id()));
    let plan = Plan { time: Duration::from_secs(args.seconds), only: args.only, tenants: args.tenants };
    let measured = measure(&config, &scratch, &plan).await;
    // Ours alone, and of no use to anybody.
    let _ = std::fs::remove_dir_all(&scratch);
    let lines = measured?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&lines).map_err(|error| Failure::caused(&error))?);
    }
    Ok(())
}

/// What is asked for.
struct Plan {
    /// Of each line.
    time: Duration,
    /// Only the lines whose name contains this.
    only: Option<String>,
    /// In the table, and of the loads that have many.
    tenants: usize,
}

async fn measure(config: &Config, scratch: &Path, plan: &Plan) -> Result<Vec<Line>, Failure> {
    let embedded = Embedded::start(scratch, &config.surroundings.search_path).await?;
    let measured = measure_on(config, scratch, embedded.connect_options(), plan).await;
    embedded.stop().await?;
    measured
}

async fn measure_on(
    config: &Config,
    scratch: &Path,
    options: PgConnectOptions,
    plan: &Plan,
) -> Result<Vec<Line>, Failure> {
    let clock = Clock::System;
    let store = Store::open(options.clone()).await?;
    crate::store::bench::populate(&store, plan.tenants, POOLED).await?;
    let folder = Folder::open(config.policies.clone(), Workshop::default(), clock.now()).map_err(|error| {
        Failure::from(error)
            .hint("build the policies with `tollgate policy build policies --out DIR` and name DIR with --policies")
    })?;
    let policies = Arc::new(folder);
    let spool = Spool::open(&scratch.join("spool"), 1 << 20).map_err(|error| Failure::new(error.to_string()))?.0;
    let outages = Outages::new(StoreFailure::Closed, spool);
    let enforcement = Enforcement { e2b: true, others: true };
    let alerting = Alerting { channels: Channels::default(), enforcement, extras: Extras::default() };
    let gate = Gate::start(store.clone(), policies.clone(), enforcement, clock.clone(), outages);
    let access = Access { app: Vec::new(), admin: None, transport: Transport::Loopback };
    let listen = Listen::Tcp(([127, 0, 0, 1], 0).into());
    let broken = |error| Failure::new(format!("the bench cannot listen: {error}"));
    let listener = Listener::bind(&listen).await.map_err(broken)?;
    let Listen::Tcp(address) = listener.address(&listen).map_err(broken)? else {
        return Err(Failure::new("no address"));
    };
    let app = Arc::new(App { gate, store: store.clone(), policies, clock, access });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async move { drop(stopped.await) };
    let serving = tokio::spawn(server::serve(listener, app, Arc::new(alerting), None, stopped));
    let bare = bare::serve().await.map_err(broken)?;
    let mut bench = Bench { plan, lines: Vec::new(), bare };
    println!("{:<34} {:>5} {:>10} {:>10} {:>10} {:>8}", "WHAT", "CONN", "PER SECOND", "P50", "P99", "OF BARE");
    bench.database(&store, "SELECT 1 (sqlx)", crate::store::bench::select_one).await?;
    bench.database(&store, "durable UPDATE of one row (sqlx)", crate::store::bench::update_one).await?;
    for connections in CONNECTIONS {
        let figures = bench.bare(connections, plan.time)?;
        bench.print("bare axum handler", connections, figures, None);
    }
    #[cfg(feature = "limitador")]
    bench.load(
        "limitador behind axum, in memory",
        bare::serve_limitador().await.map_err(broken)?,
        &[200],
        &check_one(),
    )?;
    for (what, statuses, next) in loads(plan.tenants) {
        bench.load(&what, address, statuses, &next)?;
    }
    let _ = stop.send(());
    let _ = serving.await;
    store.close().await;
    Ok(bench.lines)
}

struct Bench<'a> {
    plan: &'a Plan,
    lines: Vec<Line>,
    /// Where the bare handler listens.
    bare: SocketAddr,
}

impl Bench<'_> {
    fn load(&mut self, what: &str, address: SocketAddr, statuses: &'static [u16], next: &Next) -> Result<(), Failure> {
        if self.plan.only.as_ref().is_some_and(|only| !what.contains(only)) {
            return Ok(());
        }
        for connections in CONNECTIONS {
            // A machine that others share is now faster, now slower: what a line is compared with lies around it.
            let before = self.bare(connections, self.plan.time / 2)?;
            let run = tokio::task::block_in_place(|| load::run(address, connections, self.plan.time, statuses, next));
            let figures = run.map_err(|error| Failure::new(format!("{what}: {error}")))?;
            let after = self.bare(connections, self.plan.time / 2)?;
            self.print(what, connections, figures, Some(before.per_second.midpoint(after.per_second)));
        }
        Ok(())
    }

    fn bare(&self, connections: usize, time: Duration) -> Result<Figures, Failure> {
        let run = tokio::task::block_in_place(|| load::run(self.bare, connections, time, &[200], &check_one()));
        run.map_err(|error| Failure::new(format!("the bare handler: {error}")))
    }

    async fn database<F: Future<Output = Result<(), crate::store::StoreError>>>(
        &mut self,
        store: &Store,
        what: &str,
        statement: impl Fn(Store) -> F,
    ) -> Result<(), Failure> {
        let (started, mut micros) = (Instant::now(), Vec::new());
        while started.elapsed() < self.plan.time {
            let sent = Instant::now();
            statement(store.clone()).await?;
            micros.push(sent.elapsed());
        }
        micros.sort_unstable();
        let at = |share: usize| micros[(micros.len() * share / 100).min(micros.len() - 1)];
        let per_second = u64::try_from(micros.len()).unwrap_or_default() * 1000
            / u64::try_from(self.plan.time.as_millis()).unwrap_or(1).max(1);
        self.print(what, 1, Figures { per_second, p50: at(50), p99: at(99), unexpected: 0 }, None);
        Ok(())
    }

    fn print(&mut self, what: &str, connections: usize, figures: Figures, bare: Option<u64>) {
        let permille = bare.map(|bare| figures.per_second * 1000 / bare.max(1));
        let share = permille.map_or_else(String::new, |permille| format!("{}.{} %", permille / 10, permille % 10));
        let unexpected = if figures.unexpected == 0 {
            String::new()
        } else {
            format!("  {} unexpected answers", figures.unexpected)
        };
        println!(
            "{what:<34} {connections:>5} {:>10} {:>7} µs {:>7} µs {share:>8}{unexpected}",
            figures.per_second,
            figures.p50.as_micros(),
            figures.p99.as_micros()
        );
        self.lines.push(Line {
            what: what.to_owned(),
            connections,
            per_second: figures.per_second,
            p50_micros: figures.p50.as_micros(),
            p99_micros: figures.p99.as_micros(),
            permille_of_bare: permille,
        });
    }
}

/// What is measured, the statuses that an answer may have, and the requests.
fn loads(tenants: usize) -> Vec<(String, &'static [u16], Next)> {
    let many = |path| of_many(path, "t", tenants);
    vec![
        ("check, one tenant".to_owned(), &[200], check_one()),
        (format!("check, {tenants} tenants"), &[200], many("/v1/check")),
        ("denial, one tenant".to_owned(), &[429], one("/v1/check", "exhausted", "1")),
        ("denied reserve, one tenant".to_owned(), &[429], one("/v1/reservations", "exhausted", "1")),
        ("reserve, one tenant".to_owned(), &[201], one("/v1/reservations", "hot", "0.000001")),
        (format!("reserve, {tenants} tenants"), &[201], many("/v1/reservations")),
        ("reserve, pool of 100 tenants".to_owned(), &[201], of_many("/v1/reservations", "p", POOLED)),
        ("reserve + settle, one tenant".to_owned(), &[200, 201], reserve_and_settle()),
    ]
}

fn body(tenant: &str, usd: &str) -> String {
    format!(
        r#"{{"tenantId":"{tenant}","resourceType":"llm","estimatedCostUsd":"{usd}","attributes":{{"model":"small"}}}}"#
    )
}

fn one(path: &'static str, tenant: &'static str, usd: &'static str) -> Next {
    let request = post(path, &body(tenant, usd));
    Arc::new(move |_| request.clone())
}

fn check_one() -> Next {
    one("/v1/check", "hot", "0.000001")
}

fn of_many(path: &'static str, prefix: &'static str, tenants: usize) -> Next {
    Arc::new(move |turn| {
        // A stride that visits every tenant, and neighbours at different times.
        let n = (turn.connection * 7919 + usize::try_from(turn.sent).unwrap_or_default() * 104_729) % tenants;
        post(path, &body(&format!("{prefix}-{n}"), "0.000001"))
    })
}

/// Every second request settles the reservation of the one before; both kinds are counted.
fn reserve_and_settle() -> Next {
    Arc::new(|turn: &mut Turn| {
        let id = reservation_id(&turn.answer).filter(|_| turn.sent % 2 == 1);
        match id {
            Some(id) => {
                post(&format!("/v1/reservations/{id}/settle"), r#"{"tenantId":"hot","actualCostUsd":"0.000001"}"#)
            }
            None => post("/v1/reservations", &body("hot", "0.000001")),
        }
    })
}

fn reservation_id(answer: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(answer).ok()?;
    let (_, rest) = text.split_once(r#""reservationId":""#)?;
    rest.get(..36)
}
