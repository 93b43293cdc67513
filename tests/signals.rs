//! SIGHUP reads the policy folder at once, also where nothing that happens there is seen; Ctrl-C ends a gate at any time.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use sqlx::ConnectOptions as _;
use sqlx::migrate::Migrate as _;

use crate::harness::{Binary, Database, Running, Scratch, guests, until};

/// The folder is looked at anyway when so much time has passed.
const EVERY: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_brings_in_a_policy_whose_change_nobody_saw() {
    // The folder has a link to what lies elsewhere, where nobody watches.
    let (database, files, elsewhere) = (Database::migrated().await, guests::own_folder(), Scratch::new());
    let of_the_tests = |policy: &str| fs::read(guests::OF_THE_TESTS.join(format!("{policy}.wasm"))).expect("a policy");
    let (before, after) = (of_the_tests("every-second-user"), of_the_tests("hostile"));
    elsewhere.write("odd.wasm", &before);
    symlink(elsewhere.join("odd.wasm"), files.join("odd.wasm")).expect("a link");
    files.write("odd.toml", guests::PATIENT);
    let began = Instant::now();
    let policies = files.path().to_str().expect("a text");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--policies", policies];
    let gate = Binary::start(&arguments, &[("DATABASE_URL", &database.url())]);
    let serves = async |component: &[u8]| {
        let digest = tollgate::policy::engine::digest(component);
        gate.send("GET", "/v1/policies", json!(null)).await.text.contains(&digest)
    };
    assert!(serves(&before).await);
    elsewhere.write("odd.wasm.new", &after);
    fs::rename(elsewhere.join("odd.wasm.new"), elsewhere.join("odd.wasm")).expect("a file");
    assert!(!serves(&after).await);
    kill(Pid::from_raw(gate.id()), Signal::SIGHUP).expect("a running gate");
    until("the hangup is heard", || serves(&after)).await;
    // No look at intervals can have come before this: that it is live is the hangup's doing.
    assert!(began.elapsed() < EVERY, "too slow to tell: {:?}", began.elapsed());
    let finished = gate.interrupt();
    assert_eq!(finished.code, Some(0), "a hangup ends nothing");
    let log = finished.log;
    let live = log.iter().filter(|line| line.contains(r#""message":"Policy live""#) && line.contains(r#""odd""#));
    assert_eq!(live.count(), 2, "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_waits_for_another_hosts_migration_ends_when_it_is_told_to() {
    let database = Database::migrated().await;
    let mut other = database.options().connect().await.expect("a connection");
    other.lock().await.expect("the lock of migrations");
    let policies = guests::SHIPPED.to_str().expect("a text");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--policies", policies];
    let gate = Running::start_in(&[("DATABASE_URL", &database.url())], &arguments);
    let waiting = "SELECT count(*) > 0 FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event = 'advisory'";
    until("it waits for the migration", || async { database.value(waiting).await == "t" }).await;
    assert_eq!(gate.interrupt(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_whose_own_database_does_not_start_ends_when_it_is_told_to() {
    let programs = Scratch::new();
    // The server's user is another one, and leaves its mark beside the program.
    programs.write("postgres", "#!/bin/sh\necho 'postgres (PostgreSQL) 15.1'\n");
    programs.write("initdb", "#!/bin/sh\n: > \"$0.began\"\nexec sleep 600\n");
    for name in ["", "postgres", "initdb"] {
        fs::set_permissions(programs.join(name), Permissions::from_mode(0o777)).expect("permissions");
    }
    let policies = guests::SHIPPED.to_str().expect("a text");
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").expect("a search path"));
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--policies", policies];
    let gate = Running::start_in(&[("PATH", &path)], &arguments);
    until("a database is made", || async { programs.join("initdb.began").exists() }).await;
    assert_eq!(gate.interrupt(), Some(0));
}
