//! Two hosts, a database, a way between them that breaks in every way, and applications that remember what they were
//! told. After it, a checker over the books.
//!
//! `TOLLGATE_FAULTS_SECONDS` says for how long (10), `TOLLGATE_FAULTS_SEED` which story (2026; it is printed), and
//! `TOLLGATE_FAULTS_REPORT` where `faults.json` and `RELIABILITY.md` go.

mod failover;
mod report;
mod workload;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tollgate::store::embedded::Embedded;

use self::report::{Report, Run};
use self::workload::{Answered, Dice, Workload};
use crate::harness::{Binary, Scratch, guests, until};
use crate::outages::switch::{Switch, Wire};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Fault {
    KilledHost,
    RefusedForAll,
    RefusedForOne,
    SilentForAll,
    SilentForOne,
    LostReplies,
    ReadOnly,
    NoMoreConnections,
    StoppedDatabase,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::KilledHost,
        Self::RefusedForAll,
        Self::RefusedForOne,
        Self::SilentForAll,
        Self::SilentForOne,
        Self::LostReplies,
        Self::ReadOnly,
        Self::NoMoreConnections,
        Self::StoppedDatabase,
    ];

    const fn what(self) -> &'static str {
        match self {
            Self::KilledHost => "a host is killed (SIGKILL) and started again",
            Self::RefusedForAll => "the database refuses both hosts",
            Self::RefusedForOne => "the database refuses one host",
            Self::SilentForAll => "the database is silent to both hosts",
            Self::SilentForOne => "the database is silent to one host",
            Self::LostReplies => "statements are carried out, and their replies are lost",
            Self::ReadOnly => "the database takes no writes",
            Self::NoMoreConnections => "the database has no more connections",
            Self::StoppedDatabase => "the database is stopped at once (SIGQUIT) and started again",
        }
    }
}

struct Host {
    gate: Option<Binary>,
    switch: Switch,
    data: Scratch,
    url: String,
}

impl Host {
    fn new(store: &PgConnectOptions) -> Self {
        let switch = Switch::new(store.get_socket().expect("a socket"));
        let in_url = |path: &Path| path.to_str().expect("a text").replace('/', "%2F");
        let (user, database) = (store.get_username(), store.get_database().expect("a database"));
        let url = format!("postgres://{user}@{}/{database}", in_url(switch.folder()));
        let mut host = Self { gate: None, switch, data: Scratch::new(), url };
        host.start();
        host
    }

    fn start(&mut self) {
        let policies = guests::SHIPPED.to_str().expect("a text");
        let data = self.data.path().to_str().expect("a text");
        let arguments =
            ["serve", "--listen", "127.0.0.1:0", "--log-level", "error", "--policies", policies, "--data-dir", data];
        self.gate = Some(Binary::start(&arguments, &[("DATABASE_URL", &self.url)]));
    }

    fn gate(&self) -> &Binary {
        self.gate.as_ref().expect("a host that runs")
    }

    async fn is_well(&self) -> bool {
        let spooled = || {
            let files = fs::read_dir(self.data.join("spool")).expect("a folder");
            files
                .flatten()
                .filter(|file| file.path().extension().is_some_and(|extension| extension == "spool"))
                .map(|file| file.metadata().map_or(0, |file| file.len()))
                .sum::<u64>()
        };
        self.gate().send("GET", "/readyz", json!(null)).await.at("/degraded") == json!(false) && spooled() == 0
    }
}

struct World {
    hosts: [Host; 2],
    database: Option<Embedded>,
    folder: Scratch,
    search_path: OsString,
    workload: Workload,
}

impl World {
    fn options(&self) -> PgConnectOptions {
        self.database.as_ref().expect("a database").connect_options()
    }

    async fn run(&self, sql: &str) {
        let mut connection = self.options().connect().await.expect("a connection");
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.expect(sql);
    }

    fn wires(&self, wire: Wire, hosts: &[usize]) {
        for &host in hosts {
            self.hosts[host].switch.now(wire);
        }
    }

    /// Breaks something, lets the applications go on for a while, and mends it.
    async fn suffers(&mut self, fault: Fault, dice: &mut Dice) {
        let one = usize::from(dice.roll(2) == 1);
        let some = 40 + usize::try_from(dice.roll(200)).expect("a small number");
        match fault {
            Fault::KilledHost => {
                self.hosts[one].gate.take().expect("a host that runs").kill();
                self.workload.answers(some).await;
                self.hosts[one].start();
                self.workload.moved(one, &self.hosts[one].gate().url);
            }
            Fault::RefusedForAll => self.cut(Wire::Refuses, &[0, 1], some).await,
            Fault::RefusedForOne => self.cut(Wire::Refuses, &[one], some).await,
            Fault::SilentForAll => self.cut(Wire::IsSilent, &[0, 1], some).await,
            Fault::SilentForOne => self.cut(Wire::IsSilent, &[one], some).await,
            Fault::LostReplies => self.cut(Wire::LosesReplies, &[0, 1], some).await,
            Fault::ReadOnly => {
                let database = self.options().get_database().expect("a database").to_owned();
                let disconnect = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
                self.run(&format!("ALTER DATABASE \"{database}\" SET default_transaction_read_only = on")).await;
                self.run(disconnect).await;
                self.workload.answers(some).await;
                self.run(&format!(
                    "BEGIN READ WRITE; ALTER DATABASE \"{database}\" RESET default_transaction_read_only; COMMIT"
                ))
                .await;
            }
            Fault::NoMoreConnections => {
                let mut taken: Vec<PgConnection> = Vec::new();
                while let Ok(connection) = self.options().connect().await {
                    taken.push(connection);
                }
                self.workload.answers(some).await;
                for connection in taken {
                    connection.close().await.expect("an end");
                }
            }
            Fault::StoppedDatabase => {
                let embedded = self.database.take().expect("a database");
                let pid = fs::read_to_string(embedded.cluster_dir().join("postmaster.pid")).expect("a running server");
                let pid = pid.lines().next().and_then(|line| line.parse().ok()).expect("its process id");
                kill(Pid::from_raw(pid), Signal::SIGQUIT).expect("a running server");
                self.workload.answers(some).await;
                // Its watchdog starts it again, or the owner does.
                drop(embedded.stop().await);
                let again = Embedded::start(self.folder.path(), &self.search_path).await;
                self.database = Some(again.expect("a server that starts again"));
            }
        }
    }

    async fn cut(&self, wire: Wire, hosts: &[usize], answers: usize) {
        self.wires(wire, hosts);
        self.workload.answers(answers).await;
        self.wires(Wire::Forwards, hosts);
    }

    async fn are_well(&self) {
        for host in &self.hosts {
            until("a host is well and has brought everything into the books", || host.is_well()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_every_cost_that_was_answered_is_in_the_books_once() {
    let variable = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: a number")))
    };
    let (seconds, seed) = (variable("TOLLGATE_FAULTS_SECONDS", 10), variable("TOLLGATE_FAULTS_SEED", 2026));
    println!("seed {seed}, {seconds} s");
    let (folder, search_path) = (Scratch::new(), std::env::var_os("PATH").unwrap_or_default());
    let database = Embedded::start(folder.path(), &search_path).await.expect("a server");
    let cluster = database.cluster_dir().to_owned();
    let hosts = [0, 1].map(|_| Host::new(&database.connect_options()));
    for (n, quota) in (0..4).map(|n| (n, format!("tenant/t-{n}"))) {
        let body = json!({ "limitUsd": 1_000_000 });
        let path = format!("/v1/quotas/{quota}/llm/lifetime");
        hosts[n % 2].gate().send("PUT", &path, body).await.expect_status(201);
    }
    let urls = hosts.iter().map(|host| host.gate().url.clone()).collect();
    let mut world =
        World { hosts, database: Some(database), folder, search_path, workload: Workload::start(urls, seed) };
    let (begun, mut dice, mut report) = (Instant::now(), Dice(seed), Report::default());
    for round in 0.. {
        // Each of them at least once, then as the dice fall.
        let fault = match Fault::ALL.get(round) {
            Some(fault) => *fault,
            None if begun.elapsed() > Duration::from_secs(seconds) => break,
            None => Fault::ALL[usize::try_from(dice.roll(Fault::ALL.len() as u64)).expect("a small number")],
        };
        let before = world.workload.answered().degraded_micros.len();
        world.suffers(fault, &mut dice).await;
        let mended = Instant::now();
        world.are_well().await;
        let degraded = world.workload.answered().degraded_micros[before..].to_vec();
        report.runs.push(Run { fault: fault.what(), recovered_in: mended.elapsed(), degraded_micros: degraded });
        world.workload.answers(50).await;
    }
    let World { hosts, database, workload, .. } = world;
    let answered = workload.stop().await;
    for host in &hosts {
        until("a host is well and has brought everything into the books", || host.is_well()).await;
    }
    let database = database.expect("a database");
    report.seconds = begun.elapsed().as_secs();
    report.seed = seed;
    check(&database.connect_options(), &answered, &mut report).await;
    if let Some(folder) = std::env::var_os("TOLLGATE_FAULTS_REPORT") {
        report.write(Path::new(&folder));
    }
    for host in hosts {
        assert_eq!(host.gate.expect("a host").interrupt().code, Some(0));
    }
    drop(database.stop().await);
    // Where the server's user cannot enter the folder, the cluster is somewhere else.
    let elsewhere = cluster.parent().filter(|parent| parent.starts_with("/var/lib/tollgate"));
    elsewhere.map(fs::remove_dir_all);
    assert!(report.violations().is_empty(), "seed {seed}: {:#?}", report.violations());
}

/// Holds the books against what was answered.
async fn check(store: &PgConnectOptions, answered: &Answered, report: &mut Report) {
    let mut connection = store.clone().connect().await.expect("a connection");
    let rows = |sql: &'static str| sqlx::query_as::<_, (String, i64)>(sql);
    let costs = rows("SELECT cost_id, (actual_usd * 1000000)::bigint FROM copilot_internal.cost_records");
    let costs = costs.fetch_all(&mut connection).await.expect("the costs");
    let settles = rows(
        "SELECT id::text, (actual_usd * 1000000)::bigint FROM copilot_internal.reservations WHERE state = 'settled'",
    );
    let settles = settles.fetch_all(&mut connection).await.expect("the settles");
    for (what, told, books) in [("costs", &answered.costs, &costs), ("settles", &answered.settles, &settles)] {
        let lost = told.iter().filter(|(id, micros)| {
            !books.iter().any(|(booked, amount)| booked == *id && i64::try_from(**micros) == Ok(*amount))
        });
        let invented = books.iter().filter(|(id, _)| !told.contains_key(id));
        report.check(&format!("acknowledged {what} that are not in the books"), lost.count());
        report.check(&format!("{what} in the books that nobody was told of"), invented.count());
        report.count(what, books.len());
    }
    report.count("reservations", answered.reservations);
    report.count("answers while the store could not be reached", answered.degraded);
    let held = "SELECT count(*) FROM copilot_internal.cost_quotas WHERE held_usd <> 0";
    until("nothing is held any more", || async {
        let mut connection = store.clone().connect().await.expect("a connection");
        sqlx::query_scalar::<_, i64>(held).fetch_one(&mut connection).await.expect("a number") == 0
    })
    .await;
    let differ = "SELECT count(*) FROM copilot_internal.cost_quotas q WHERE current_spend_usd <>
                  coalesce((SELECT sum(actual_usd) FROM copilot_internal.cost_records c WHERE c.tenant_id = q.scope_id), 0)
                  + coalesce((SELECT sum(actual_usd) FROM copilot_internal.reservations r WHERE r.tenant_id = q.scope_id), 0)";
    let differ: i64 = sqlx::query_scalar(differ).fetch_one(&mut connection).await.expect("a number");
    report.check("quotas whose spend is not the sum of its rows", usize::try_from(differ).expect("a count"));
    let ends = "SELECT count(*) FROM copilot_internal.reservations WHERE state = 'held'";
    let open: i64 = sqlx::query_scalar(ends).fetch_one(&mut connection).await.expect("a number");
    report.check("reservations that have not ended", usize::try_from(open).expect("a count"));
}
