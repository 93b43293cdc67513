//! `policy replay`: the stored decisions again, under a candidate.
//!
//! 1. the candidate is loaded as it would be served, with the settings of the file beside it;
//! 2. decisions are read a page at a time, oldest first, those of now included, and no newer ones;
//! 3. each is decided again from its facts, in an instance of its own, on every processor;
//! 4. what would be another decision is counted, by tier and tenant.

mod report;
mod tally;

use std::io::{IsTerminal as _, Write as _};
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::tally::Tallies;
use super::since::since;
use super::source::{Ready, Source, compiler};
use super::{Failure, OpenStore, configured, shown};
use crate::cli::ReplayArgs;
use crate::clock::Clock;
use crate::decision::{Decision, Facts};
use crate::gate::recall::recall;
use crate::policy::{Engine, PolicyError};
use crate::store::Store;
use crate::store::decisions::{Span, StoredDecision};

/// Decisions that are read at once.
const PAGE: i64 = 1_000;
/// Pages that wait for a processor.
const WAITING: usize = 4;
/// A busy machine makes a guest late: it is late when it is so each time.
const TRIES: usize = 3;
/// What takes longer tells how far it is.
const SILENT: Duration = Duration::from_secs(1);

pub(super) async fn run(args: ReplayArgs) -> Result<(), Failure> {
    let now = Clock::System.now();
    let span = Span { since: since(&args.since, now)?, until: now, tenant_id: args.tenant };
    let path = args.candidate.clone();
    let load = move || {
        let source = Source::read(&path)?;
        let engine = Engine::new()?;
        // The engine's clock ends with it.
        Ok::<_, Failure>((source.compile(&engine, &compiler())?, engine))
    };
    let (ready, _engine) =
        tokio::task::spawn_blocking(load).await.map_err(|error| Failure::new(error.to_string()))??;
    let ready = Arc::new(ready);
    let opened = OpenStore::open(&configured(&args.store)?).await?;
    let started = Instant::now();
    let tallies = replay(&opened.store, &span, args.policy.as_deref(), &ready).await;
    opened.close().await?;
    let tallies = tallies?;
    if args.json {
        report::print_json(&ready, &span, &tallies)?;
    } else {
        report::print(&shown(&args.candidate), &ready, &span, &tallies, started.elapsed());
    }
    let failing: u64 = tallies.failures.values().map(|(count, _)| count).sum();
    if failing == 0 {
        return Ok(());
    }
    Err(Failure { exit: 1, ..Failure::new(format!("the candidate gave no verdict on {failing} decisions")) }
        .hint("`tollgate decision explain ID --fixture` makes a fixture of one, for `tollgate policy test`"))
}

async fn replay(store: &Store, span: &Span, policy: Option<&str>, ready: &Arc<Ready>) -> Result<Tallies, Failure> {
    let (pages, arriving) = mpsc::channel::<Vec<StoredDecision>>(WAITING);
    let arriving = Arc::new(Mutex::new(arriving));
    let done = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
        let (arriving, ready, done) = (arriving.clone(), ready.clone(), done.clone());
        workers.spawn_blocking(move || {
            let mut tallies = Tallies::default();
            let next = || arriving.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            while let Some(page) = next() {
                done.fetch_add(page.len() as u64, Ordering::Relaxed);
                for stored in &page {
                    again(&ready, stored, &mut tallies);
                }
            }
            tallies
        });
    }
    drop(arriving);
    let read = read(store, span, policy, &pages, &done).await;
    drop(pages);
    let mut tallies = Tallies::default();
    while let Some(worked) = workers.join_next().await {
        tallies.absorb(worked.map_err(|error| Failure::new(error.to_string()))?);
    }
    read.map(|()| tallies)
}

async fn read(
    store: &Store,
    span: &Span,
    policy: Option<&str>,
    pages: &mpsc::Sender<Vec<StoredDecision>>,
    done: &AtomicU64,
) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let mut after = None;
    loop {
        let mut page = store.decisions_after(span, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.decided_at);
        progress.tell(done.load(Ordering::Relaxed), last.decided_at);
        // Here, and not by the store: it would look for the next page through all that others have decided.
        page.retain(|stored| policy.is_none_or(|policy| stored.policy_name == policy));
        if pages.send(page).await.is_err() {
            break;
        }
    }
    progress.clear();
    Ok(())
}

/// Asks the candidate what was asked then.
fn again(ready: &Ready, stored: &StoredDecision, tallies: &mut Tallies) {
    match recall(stored) {
        Err(why) => tallies.unreadable(why),
        Ok(recalled) => {
            let tier = recalled.facts.tier.as_ref().map(ToString::to_string).unwrap_or_default();
            let allowed = recalled.at_most.unwrap_or(recalled.facts.request.estimate);
            tallies.count(tier, stored, allowed, &decide(ready, recalled.facts));
        }
    }
}

fn decide(ready: &Ready, facts: Facts) -> Result<Decision, PolicyError> {
    let mut verdict = ready.compiled.decide(&facts, &ready.settings);
    for _ in 1..TRIES {
        if !matches!(verdict, Err(PolicyError::Timeout(_))) {
            break;
        }
        verdict = ready.compiled.decide(&facts, &ready.settings);
    }
    Ok(Decision::new(facts, ready.reference.clone(), verdict?, true))
}

/// How far it is, on a terminal, from the second second on.
struct Progress {
    started: Instant,
    told: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self { started: Instant::now(), told: None, is_terminal: std::io::stderr().is_terminal() }
    }

    fn tell(&mut self, done: u64, at: DateTime<Utc>) {
        const PAUSE: Duration = Duration::from_millis(200);
        let is_due = self.told.is_none_or(|told| told.elapsed() > PAUSE);
        if self.is_terminal && is_due && self.started.elapsed() > SILENT {
            eprint!("\r{done} decisions, up to {} ", at.format("%Y-%m-%d %H:%M:%S"));
            let _ = std::io::stderr().flush();
            self.told = Some(Instant::now());
        }
    }

    fn clear(&self) {
        if self.told.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
