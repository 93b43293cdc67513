//! What the process counts, and its text for Prometheus. Counters belong to the process, so they are statics; they are
//! integers, so that no float comes near what they count.
//!
//! No tenant is a label: there can be any number of them. Resource types are callers' words, so only the first few
//! become labels.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::decision::{Decision, Outcome};

/// Resource types and policies with a label of their own; the rest is `other`.
const MOST_LABELS: usize = 50;
const OTHER: &str = "other";

/// How a decision was asked for.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// It changes nothing.
    Check,
    /// It sets money aside.
    Reserve,
}

/// `degraded`: allowed, since the store could not be reached. `failed`: there was no decision.
const OUTCOMES: [&str; 5] = ["allowed", "denied", "unenforced", "failed", "degraded"];
const MODES: [&str; 2] = ["check", "reserve"];

/// Upper bounds of a histogram's buckets, in microseconds.
const BOUNDS: [u64; 14] =
    [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000, 5_000_000];

/// Durations.
#[derive(Debug)]
struct Histogram {
    /// One for each bound, and one beyond; each for itself.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Histogram {
    const fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BOUNDS.len() + 1], nanos: AtomicU64::new(0) }
    }

    fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX);
        self.buckets[BOUNDS.partition_point(|bound| *bound < micros)].fetch_add(1, Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    fn write(&self, text: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS.into_iter().map(Some).chain([None])) {
            count += bucket.load(Relaxed);
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |micros| seconds(micros * 1_000));
            let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
        }
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(text, "{name}_sum{labels} {}", seconds(self.nanos.load(Relaxed)));
        let _ = writeln!(text, "{name}_count{labels} {count}");
    }
}

/// Nanoseconds as a decimal of seconds: `0.00025`.
fn seconds(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Something of each name that has come up, up to a number of names.
struct ByName<T>(RwLock<Vec<(Box<str>, T)>>);

impl<T> ByName<T> {
    const fn new() -> Self {
        Self(RwLock::new(Vec::new()))
    }

    fn with(&self, name: &str, new: impl Fn() -> T, count: impl Fn(&T)) {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(known, _)| **known == *name);
        if let Some((_, counted)) = found {
            return count(counted);
        }
        drop(known);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let name = if known.len() < MOST_LABELS { name } else { OTHER };
        let place = known.iter().position(|(known, _)| **known == *name).unwrap_or_else(|| {
            known.push((name.into(), new()));
            known.len() - 1
        });
        count(&known[place].1);
    }

    fn each(&self, mut tell: impl FnMut(&str, &T)) {
        for (name, counted) in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            tell(name, counted);
        }
    }
}

type Decisions = [[AtomicU64; OUTCOMES.len()]; MODES.len()];

static DECISIONS: ByName<Decisions> = ByName::new();
static DURATIONS: Histogram = Histogram::new();
static EVALUATIONS: ByName<Histogram> = ByName::new();
/// By policy and kind, such as `pro timeout`: kinds are few.
static POLICY_ERRORS: ByName<AtomicU64> = ByName::new();
static RELOADS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// By channel and result, such as `slack sent`.
static ALERTS: ByName<AtomicU64> = ByName::new();

fn zero() -> AtomicU64 {
    AtomicU64::new(0)
}

fn add_one(count: &AtomicU64) {
    count.fetch_add(1, Relaxed);
}

/// A decision was made, or was not to be had.
pub fn decided(resource_type: &str, decision: Option<&Decision>, mode: Mode, took: Duration) {
    let outcome = match decision.map(|decision| (&decision.outcome, decision.degraded)) {
        Some((_, true)) => 4,
        Some((Outcome::Allowed, _)) => 0,
        Some((Outcome::Denied(_), _)) => 1,
        Some((Outcome::Unenforced(_), _)) => 2,
        None => 3,
    };
    let new = || [const { [const { AtomicU64::new(0) }; OUTCOMES.len()] }; MODES.len()];
    DECISIONS.with(resource_type, new, |counts| add_one(&counts[mode as usize][outcome]));
    DURATIONS.observe(took);
}

/// A policy was asked.
pub fn evaluated(policy: &str, took: Duration) {
    EVALUATIONS.with(policy, Histogram::new, |histogram| histogram.observe(took));
}

/// A policy failed.
pub fn policy_failed(policy: &str, kind: &str) {
    POLICY_ERRORS.with(&format!("{policy} {kind}"), zero, add_one);
}

/// The policy folder was read again.
pub fn reloaded(all_serve: bool) {
    add_one(&RELOADS[usize::from(!all_serve)]);
}

/// An attempt to deliver an alert ended: `sent`, `failed` (it is tried again) or `gave_up`.
pub fn alert(channel: &str, result: &str) {
    ALERTS.with(&format!("{channel} {result}"), zero, add_one);
}

/// These channels are used: what becomes of the first alert of each is to be seen as a change.
pub fn alerts_to(channels: impl Iterator<Item = &'static str>) {
    for channel in channels {
        for result in ["sent", "failed", "gave_up"] {
            ALERTS.with(&format!("{channel} {result}"), zero, |_| {});
        }
    }
}

/// What only the store knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreGauges {
    /// Reservations that hold money.
    pub reservations_held: u64,
    /// Messages that are due and not sent.
    pub alerts_due: u64,
}

/// What waits on this host's disk for the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolGauges {
    /// On the disk.
    pub bytes: u64,
    /// How many.
    pub records: u64,
    /// How long the oldest has waited.
    pub oldest_seconds: u64,
}

/// Everything as Prometheus reads it (text format 0.0.4); `store` is nothing where the store does not answer.
pub fn text(store: Option<StoreGauges>, spool: SpoolGauges) -> String {
    let mut text = String::new();
    head(&mut text, "tollgate_build_info", "gauge", "The version that runs; always 1.");
    let _ = writeln!(text, "tollgate_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    head(&mut text, "tollgate_store_up", "gauge", "Whether the store answers: 1 or 0.");
    let _ = writeln!(text, "tollgate_store_up {}", u8::from(store.is_some()));
    head(&mut text, "tollgate_spool_bytes", "gauge", "What waits on this host's disk for the store.");
    let _ = writeln!(text, "tollgate_spool_bytes {}", spool.bytes);
    head(&mut text, "tollgate_spool_records", "gauge", "Records that wait on this host's disk for the store.");
    let _ = writeln!(text, "tollgate_spool_records {}", spool.records);
    head(&mut text, "tollgate_spool_oldest_seconds", "gauge", "How long the oldest of them has waited; 0 without any.");
    let _ = writeln!(text, "tollgate_spool_oldest_seconds {}", spool.oldest_seconds);
    if let Some(store) = store {
        head(&mut text, "tollgate_reservations_held", "gauge", "Reservations that hold money, of all hosts.");
        let _ = writeln!(text, "tollgate_reservations_held {}", store.reservations_held);
        head(&mut text, "tollgate_alerts_due", "gauge", "Messages of alerts that are due and not sent, of all hosts.");
        let _ = writeln!(text, "tollgate_alerts_due {}", store.alerts_due);
    }
    decisions(&mut text);
    head(&mut text, "tollgate_policy_eval_duration_seconds", "histogram", "How long a policy took to decide.");
    EVALUATIONS.each(|policy, histogram| {
        histogram.write(&mut text, "tollgate_policy_eval_duration_seconds", &format!("policy=\"{}\"", escape(policy)));
    });
    head(&mut text, "tollgate_policy_errors_total", "counter", "Decisions that a policy failed to make.");
    pairs(&mut text, "tollgate_policy_errors_total", &POLICY_ERRORS, ["policy", "kind"]);
    head(&mut text, "tollgate_policy_reload_total", "counter", "Reloads of the policy folder; refused: a file was.");
    for (result, count) in ["ok", "refused"].into_iter().zip(&RELOADS) {
        let _ = writeln!(text, "tollgate_policy_reload_total{{result=\"{result}\"}} {}", count.load(Relaxed));
    }
    head(&mut text, "tollgate_alerts_total", "counter", "Attempts to deliver an alert.");
    pairs(&mut text, "tollgate_alerts_total", &ALERTS, ["channel", "result"]);
    text
}

fn decisions(text: &mut String) {
    head(text, "tollgate_decisions_total", "counter", "Decisions by what they came to.");
    DECISIONS.each(|resource_type, counts| {
        for (mode, counts) in MODES.into_iter().zip(counts) {
            for (outcome, count) in OUTCOMES.into_iter().zip(counts) {
                let (resource_type, count) = (escape(resource_type), count.load(Relaxed));
                let labels = format!("resource_type=\"{resource_type}\",outcome=\"{outcome}\",mode=\"{mode}\"");
                let _ = writeln!(text, "tollgate_decisions_total{{{labels}}} {count}");
            }
        }
    });
    head(text, "tollgate_decision_duration_seconds", "histogram", "From the request's arrival to its decision.");
    DURATIONS.write(text, "tollgate_decision_duration_seconds", "");
}

fn pairs(text: &mut String, name: &str, counts: &ByName<AtomicU64>, labels: [&str; 2]) {
    counts.each(|key, count| {
        let (first, second) = key.split_once(' ').unwrap_or((key, OTHER));
        let (first, second) = (escape(first), escape(second));
        let _ =
            writeln!(text, "{name}{{{}=\"{first}\",{}=\"{second}\"}} {}", labels[0], labels[1], count.load(Relaxed));
    });
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let histogram = Histogram::new();
        for micros in [10, 11, 5_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut text = String::new();
        histogram.write(&mut text, "h", "policy=\"pro\"");
        for line in [
            "h_bucket{policy=\"pro\",le=\"0.00001\"} 1\n",
            "h_bucket{policy=\"pro\",le=\"0.000025\"} 2\n",
            "h_bucket{policy=\"pro\",le=\"5\"} 2\n",
            "h_bucket{policy=\"pro\",le=\"+Inf\"} 3\n",
            "h_sum{policy=\"pro\"} 5.000022\n",
            "h_count{policy=\"pro\"} 3\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn names_beyond_the_first_few_share_a_label() {
        let by_name = ByName::new();
        for n in 0..200 {
            by_name.with(&format!("type-{n}"), zero, add_one);
        }
        let mut counts = Vec::new();
        by_name.each(|name, count| counts.push((name.to_owned(), count.load(Relaxed))));
        assert_eq!((counts.len(), counts.last()), (MOST_LABELS + 1, Some(&(OTHER.to_owned(), 150))));
    }
}
