//! Two hosts, each with a way to the database and a clock that break, the database, and the applications.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use super::clocks::Clock;
use super::fault::Fault;
use super::server::{Primary, Standby, run};
use super::workload::{Dice, Workload};
use crate::harness::{Binary, PATIENCE, Scratch, SmallDisk, Switch, Wire, guests};

const TENANTS: usize = 4;
/// The farthest that a clock jumps.
const SECONDS: u64 = 6 * 60 * 60;
/// Of the small disk, in MiB.
const SMALL: u32 = 64;

pub struct Host {
    gate: Option<Binary>,
    pub switch: Switch,
    pub clock: Clock,
    /// Over its data directory, for one of the hosts.
    disk: Option<SmallDisk>,
    data: Scratch,
    url: String,
}

impl Host {
    pub fn new(store: &PgConnectOptions, clock: Clock, on_small_disk: bool) -> Self {
        let switch = Switch::new(store.get_socket().expect("a socket"));
        let in_url = |path: &Path| path.to_str().expect("a text").replace('/', "%2F");
        let (user, database) = (store.get_username(), store.get_database().expect("a database"));
        let url = format!("postgres://{user}@{}/{database}", in_url(switch.folder()));
        let data = Scratch::new();
        let disk = on_small_disk.then(|| SmallDisk::over(&data, SMALL)).flatten();
        let mut host = Self { gate: None, switch, clock, disk, data, url };
        host.start();
        host
    }

    fn start(&mut self) {
        let policies = guests::SHIPPED.to_str().expect("a text");
        let data = self.data.path().to_str().expect("a text");
        let arguments =
            ["serve", "--listen", "127.0.0.1:0", "--log-level", "warn", "--policies", policies, "--data-dir", data];
        let clock = self.clock.environment();
        let mut environment: Vec<(&str, &str)> = clock.iter().map(|(name, value)| (*name, value.as_str())).collect();
        environment.push(("DATABASE_URL", &self.url));
        self.gate = Some(Binary::start(&arguments, &environment));
    }

    pub fn gate(&self) -> &Binary {
        self.gate.as_ref().expect("a host that runs")
    }

    /// What waits on its disk.
    fn spooled(&self) -> Vec<u8> {
        let files = fs::read_dir(self.data.join("spool")).expect("a folder").flatten().map(|file| file.path());
        let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "spool"));
        files.flat_map(|file| fs::read(file).expect("a file")).collect()
    }

    async fn is_well(&self) -> bool {
        self.gate().send("GET", "/readyz", json!(null)).await.at("/degraded") == json!(false)
            && self.spooled().is_empty()
    }

    /// Waits until it answers from the store and has brought everything into the books; where that does not come, what it
    /// says of it is printed.
    async fn gets_well(&mut self) {
        let well = async {
            while !self.is_well().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, well).await.is_ok() {
            return;
        }
        let asked = tokio::time::timeout(PATIENCE, self.gate().send("GET", "/readyz", json!(null)));
        println!("ready: {:?}", asked.await.map(|answer| answer.text));
        println!("spool: {} bytes", self.spooled().len());
        let mut log = self.gate.take().expect("a host that runs").interrupt().log;
        log.retain(|line| !line.contains("Allowed without a decision"));
        for line in &log[log.len().saturating_sub(40)..] {
            println!("{line}");
        }
        panic!("a host is not well and has not brought everything into the books");
    }

    pub fn end(self) {
        assert_eq!(self.gate.expect("a host that runs").interrupt().code, Some(0));
    }
}

pub struct World {
    pub hosts: [Host; 2],
    pub primary: Option<Primary>,
    pub workload: Workload,
}

impl World {
    /// With quotas that deny nothing, one of which has many windows.
    pub async fn start(seed: u64, clocks: Option<&PathBuf>) -> Self {
        let primary = Primary::start().await;
        let hosts = [false, true].map(|small| Host::new(&primary.options(), Clock::new(clocks.cloned()), small));
        for n in 0..TENANTS {
            for period in ["hour", "lifetime"] {
                let path = format!("/v1/quotas/tenant/t-{n}/llm/{period}");
                hosts[n % 2].gate().send("PUT", &path, json!({ "limitUsd": 1_000_000 })).await.expect_status(201);
            }
        }
        let urls = hosts.iter().map(|host| host.gate().url.clone()).collect();
        Self { hosts, primary: Some(primary), workload: Workload::start(urls, seed) }
    }

    pub fn options(&self) -> PgConnectOptions {
        self.primary.as_ref().expect("a database").options()
    }

    /// Where this user may mount one.
    pub fn small_disk(&self) -> Option<&SmallDisk> {
        self.hosts[1].disk.as_ref()
    }

    fn wires(&self, wire: Wire, hosts: &[usize]) {
        for &host in hosts {
            self.hosts[host].switch.now(wire);
        }
    }

    /// Breaks something, lets the applications go on for a while, and mends it.
    pub async fn suffers(&mut self, fault: Fault, dice: &mut Dice) {
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
            Fault::SlowForAll => self.cut(Wire::Delays, &[0, 1], some).await,
            Fault::ReadOnly => self.takes_no_writes(some).await,
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
                let primary = self.primary.take().expect("a database");
                primary.is_told(Signal::SIGQUIT);
                self.workload.answers(some).await;
                self.primary = Some(primary.start_again().await);
            }
            Fault::LostPrimary => {
                let standby = self.loses_its_primary(some).await;
                self.primary = Some(standby.promote().await);
            }
            Fault::FullDisk => {
                self.small_disk().expect("a small disk").fills_up_to(0);
                self.cut(Wire::Refuses, &[0, 1], some).await;
                self.small_disk().expect("a small disk").has_room_again();
            }
            Fault::ClockAhead => self.jumps(one, seconds(dice), some).await,
            Fault::ClockBehind => self.jumps(one, -seconds(dice), some).await,
            Fault::ClocksInOutage => {
                self.wires(Wire::Refuses, &[0, 1]);
                self.workload.answers(some).await;
                self.hosts[one].clock.is_ahead_by(seconds(dice));
                self.jumps(1 - one, -seconds(dice), some).await;
                self.hosts[one].clock.is_ahead_by(0);
                self.workload.answers(some).await;
                self.wires(Wire::Forwards, &[0, 1]);
            }
        }
    }

    async fn cut(&self, wire: Wire, hosts: &[usize], answers: usize) {
        self.wires(wire, hosts);
        self.workload.answers(answers).await;
        self.wires(Wire::Forwards, hosts);
    }

    async fn jumps(&self, host: usize, seconds: i64, answers: usize) {
        self.hosts[host].clock.is_ahead_by(seconds);
        self.workload.answers(answers).await;
        self.hosts[host].clock.is_ahead_by(0);
    }

    async fn takes_no_writes(&self, answers: usize) {
        let options = self.options();
        let database = options.get_database().expect("a database");
        run(&options, &format!("ALTER DATABASE \"{database}\" SET default_transaction_read_only = on")).await;
        let disconnect = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                          WHERE datname = current_database() AND pid <> pg_backend_pid()";
        run(&options, disconnect).await;
        self.workload.answers(answers).await;
        let reset =
            format!("BEGIN READ WRITE; ALTER DATABASE \"{database}\" RESET default_transaction_read_only; COMMIT");
        run(&options, &reset).await;
    }

    /// In the middle of it the primary is gone for good. Its standby answers, and takes no writes: that is no store yet.
    pub async fn loses_its_primary(&mut self, answers: usize) -> Standby {
        let primary = self.primary.take().expect("a database");
        let standby = Standby::of(&primary).await;
        self.workload.answers(answers).await;
        primary.is_told(Signal::SIGKILL);
        // If it comes back, nobody is there to hear it.
        self.wires(Wire::Refuses, &[0, 1]);
        for host in &self.hosts {
            host.switch.leads_to(standby.folder());
        }
        self.wires(Wire::Forwards, &[0, 1]);
        self.workload.answers(answers).await;
        primary.end().await;
        standby
    }

    pub async fn end(self) {
        for host in self.hosts {
            host.end();
        }
        self.primary.expect("a database").end().await;
    }

    pub async fn are_well(&mut self) {
        for host in &mut self.hosts {
            host.gets_well().await;
        }
    }
}

fn seconds(dice: &mut Dice) -> i64 {
    i64::try_from(dice.roll(SECONDS)).expect("a small number") + 1
}
