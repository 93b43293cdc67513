//! Two hosts, a database, a way between them that breaks in every way, and applications that remember what they were
//! told. After it, a checker over the books.
//!
//! `TOLLGATE_FAULTS_SECONDS` says for how long (10), `TOLLGATE_FAULTS_SEED` which story (2026; it is printed), and
//! `TOLLGATE_FAULTS_REPORT` where `faults.json` and `RELIABILITY.md` go.

mod books;
mod clocks;
mod failover;
mod fault;
mod report;
mod server;
mod workload;
mod world;

use std::path::Path;
use std::time::{Duration, Instant};

use self::books::{check, hours};
use self::fault::Fault;
use self::report::{Report, Run};
use self::workload::Dice;
use self::world::World;

/// A reservation lives for a day at most: one that a clock has made which was ahead, too.
const A_DAY_AND_MORE: i64 = 36 * 60 * 60;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_every_cost_that_was_answered_is_in_the_books_once() {
    let variable = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: a number")))
    };
    let (seconds, seed) = (variable("TOLLGATE_FAULTS_SECONDS", 10), variable("TOLLGATE_FAULTS_SEED", 2026));
    println!("seed {seed}, {seconds} s");
    let clocks = clocks::library();
    if clocks.is_none() {
        println!(
            "skipped: clocks that jump, since there is no libfaketime: pip install -r tests/clients/requirements.txt"
        );
    }
    let mut world = World::start(seed, clocks.as_ref()).await;
    if world.small_disk().is_none() {
        println!("skipped: a full disk, since this user may not mount a small one");
    }
    let possible = |fault: &Fault| {
        (clocks.is_some() || !fault.needs_clocks()) && (world.small_disk().is_some() || !fault.needs_small_disk())
    };
    let faults: Vec<Fault> = Fault::ALL.into_iter().filter(possible).collect();
    let (begun, mut dice, mut report) = (Instant::now(), Dice(seed), Report::default());
    for round in 0.. {
        // Each of them at least once, then as the dice fall.
        let fault = match faults.get(round) {
            Some(fault) => *fault,
            None if begun.elapsed() > Duration::from_secs(seconds) => break,
            None => faults[usize::try_from(dice.roll(faults.len() as u64)).expect("a small number")],
        };
        println!("{:4} s  {}", begun.elapsed().as_secs(), fault.what());
        let before = world.workload.answered().degraded_micros.len();
        world.suffers(fault, &mut dice).await;
        let mended = Instant::now();
        world.are_well().await;
        let degraded = world.workload.answered().degraded_micros[before..].to_vec();
        report.runs.push(Run { fault: fault.what(), recovered_in: mended.elapsed(), degraded_micros: degraded });
        world.workload.answers(50).await;
    }
    let answered = world.workload.stop().await;
    world.are_well().await;
    report.seconds = begun.elapsed().as_secs();
    report.seed = seed;
    world.hosts[0].clock.is_ahead_by(A_DAY_AND_MORE);
    check(&world.options(), &answered, &mut report).await;
    let hours = hours(&world.options()).await;
    report.count("hours in which something was spent, by the hosts' clocks", hours);
    if let Some(folder) = std::env::var_os("TOLLGATE_FAULTS_REPORT") {
        report.write(Path::new(&folder));
    }
    world.end().await;
    assert!(clocks.is_none() || hours > 2, "clocks that jump: {hours} hours");
    assert!(report.violations().is_empty(), "seed {seed}: {:#?}", report.violations());
}
