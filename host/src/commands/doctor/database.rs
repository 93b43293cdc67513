//! The database: reachable, writable, its version, its migrations, our rights, its clock.

use chrono::TimeDelta;

use super::super::opened::place;
use super::super::{Failure, OpenStore};
use super::{Findings, Level};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::inspect::{self, Setup};
use crate::store::{Store, StoreError};

const AREA: &str = "database";
const OLDEST: i32 = 140_000;

/// The store, where it is at this version and can be asked further.
pub(super) async fn look(config: &Config, findings: &mut Findings) -> Result<Option<OpenStore>, Failure> {
    let (options, started) = match place(config).await {
        Ok(Some(place)) => place,
        Ok(None) => {
            findings.add(AREA, Level::Note, "no store yet: the first start creates an embedded PostgreSQL");
            return Ok(None);
        }
        Err(failure) => {
            findings.add(AREA, Level::Error, "").of(failure);
            return Ok(None);
        }
    };
    let store = match inspect::inspect(&options, &Clock::System).await {
        Ok(setup) if report(&setup, findings) => Ok(Some(Store::new(options))),
        Ok(_) => Ok(None),
        Err(error) => Err(error),
    };
    match (store, started) {
        (Ok(Some(store)), started) => Ok(Some(OpenStore { store, started })),
        (unusable, started) => {
            if let Err(error) = unusable {
                findings.add(AREA, Level::Error, "").of(unreachable(error));
            }
            if let Some(started) = started {
                started.stop().await?;
            }
            Ok(None)
        }
    }
}

/// How long decisions are kept, and whether each is in its day.
pub(super) async fn look_at_log(config: &Config, store: &Store, findings: &mut Findings) {
    let kept = config.decisions_keep_days.map_or_else(|| "for ever".to_owned(), |keep| format!("for {keep} days"));
    let (days, stray) = match (store.days_of_decisions().await, store.decisions_of_no_day().await) {
        (Ok(days), Ok(stray)) => (days.len(), stray),
        (Err(error), _) | (_, Err(error)) => {
            findings.add(AREA, Level::Error, "").of(error.into());
            return;
        }
    };
    findings.add(AREA, Level::Ok, format!("decisions are kept {kept}; the log has partitions for {days} days"));
    if stray > 0 {
        findings.add(AREA, Level::Note, format!("{stray} decisions are in no day's partition")).hint(
            "a gate moves those of today and the next days, and deletes what is too old; if they grow more, its log says why",
        );
    }
}

fn unreachable(error: StoreError) -> Failure {
    Failure::from(error)
}

/// Says how the database is set up; tells whether it can be asked for more.
fn report(setup: &Setup, findings: &mut Findings) -> bool {
    if setup.version_number < OLDEST {
        findings
            .add(AREA, Level::Error, format!("PostgreSQL {} is too old", setup.version))
            .hint("PostgreSQL 14 or later");
    } else {
        findings.add(AREA, Level::Ok, format!("PostgreSQL {} answers", setup.version));
    }
    if setup.is_read_only {
        findings
            .add(AREA, Level::Error, "it is read-only: a standby, or set so")
            .hint("point DATABASE_URL at the primary");
    }
    if setup.ahead.abs() > TimeDelta::seconds(1) {
        let message = format!("its clock differs from this machine's by {} ms", setup.ahead.num_milliseconds());
        findings.add(AREA, Level::Warning, message).hint("let both follow the same time server");
    } else {
        findings.add(AREA, Level::Ok, "its clock and this machine's agree within a second");
    }
    for denied in &setup.denied {
        let message = format!("the role has no right on {denied}");
        findings.add(AREA, Level::Error, message).hint("let the role own the schema copilot_internal");
    }
    if !setup.unknown.is_empty() {
        let message = format!("it has migrations of a later version: {:?}", setup.unknown);
        findings.add(AREA, Level::Error, message).hint("run the version that made them, or a later one");
    }
    if !setup.missing.is_empty() {
        let message = format!("not at this version; missing: {}", setup.missing.join(", "));
        findings
            .add(AREA, Level::Error, message)
            .hint("`tollgate migrate`, or start the gate: both bring it to this version");
        return false;
    }
    findings.add(AREA, Level::Ok, "its tables are at this version");
    if !setup.has_log_view {
        findings
            .add(
                AREA,
                Level::Warning,
                "public.application_logs is not ours: denials are in copilot_internal.decisions only",
            )
            .hint("grant CREATE on the schema public, or rename the table of that name, then `tollgate migrate`");
    }
    setup.denied.is_empty()
}
