//! A busy machine: what a guest takes is its own time, not that of whoever else runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use tollgate::decision::{Facts, Request, Verdict};
use tollgate::money::Money;
use tollgate::policy::engine::{Engine, Limits};
use tollgate::quota::{ResourceType, TenantId};
use uuid::Uuid;

use crate::harness::{NOON, guests, instant};

/// So many others want the processor on which the guest runs: it waits for them several times while it works. How many
/// that takes depends on how fast the processor is.
const OTHERS: [usize; 4] = [60, 120, 240, 480];

fn stay_on(processor: usize) {
    let mut one = CpuSet::new();
    one.set(processor).expect("a processor");
    sched_setaffinity(Pid::from_raw(0), &one).expect("this thread's processor");
}

#[test]
fn a_guest_is_not_late_because_others_run_first() {
    let folder = guests::own_folder();
    guests::install(&folder, "hostile", "steady", "");
    let bytes = std::fs::read(folder.join("steady.wasm")).expect("a built policy");
    let limits = Limits { timeout: Duration::from_millis(300), ..Limits::default() };
    let engine = Engine::new().expect("an engine");
    let policy = engine.compile(&bytes, limits).expect("it compiles");
    let request = Request {
        id: Uuid::nil(),
        at: instant(NOON),
        tenant: TenantId::parse("acme-corp").expect("a tenant"),
        user: None,
        resource_type: ResourceType::parse("llm").expect("a resource type"),
        estimate: Money::from_nanos(1),
        request_id: None,
        attributes: Vec::new(),
    };
    let settings = [("behaviour".to_owned(), "steady".to_owned())];
    let facts = Facts { request: Arc::new(request), tier: None, pool: None, quotas: Arc::default() };
    let ours = sched_getaffinity(Pid::from_raw(0)).expect("this thread's processors");
    let processor = (0..CpuSet::count()).find(|&processor| ours.is_set(processor) == Ok(true)).expect("a processor");
    let mut longest = Duration::ZERO;
    for others in OTHERS {
        let (decided, took) = among(others, processor, || policy.decide(&facts, &settings));
        assert!(matches!(decided, Ok(Verdict::Allow { .. })), "{decided:?} after {took:?}");
        longest = longest.max(took);
        if longest > limits.timeout {
            return;
        }
    }
    panic!("the machine was not busy enough for this test to say anything: {longest:?}");
}

/// Runs `work` while so many `others` want the same processor; tells how long it took.
fn among<T: Send>(others: usize, processor: usize, work: impl FnOnce() -> T + Send) -> (T, Duration) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..others {
            threads.spawn(|| {
                stay_on(processor);
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let worker = threads.spawn(|| {
            stay_on(processor);
            let started = Instant::now();
            (work(), started.elapsed())
        });
        let answer = worker.join();
        is_over.store(true, Ordering::Relaxed);
        answer.expect("no panic")
    })
}
