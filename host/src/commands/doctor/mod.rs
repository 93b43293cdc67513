//! `doctor`: what stands in the way of production, in the order in which to mend it. Changes nothing.
//!
//! 1. the configuration: every value and where it comes from, who may call, what is enforced, what an outage means;
//! 2. outages: what a request gets then, and what earlier ones have left;
//! 3. the channels of alerts; with `--send`, whether they take a message;
//! 4. the database: reachable, writable, its version, its migrations, our rights, its clock, the decision log's days;
//! 5. the policies: each loads and passes its fixtures;
//! 6. the tenants: each has both quotas, and a policy for its tier.

mod channels;
mod database;
mod outages;
mod policies;
mod setup;
mod tenants;

use serde::Serialize;
use serde_json::json;

use super::{Failure, OpenStore};
use crate::cli::DoctorArgs;
use crate::clock::Clock;
use crate::config::Config;
use crate::telemetry;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// To know.
    Note,
    /// May be meant.
    Warning,
    /// Does not work.
    Error,
    /// Costs money.
    Critical,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    area: &'static str,
    level: Level,
    message: String,
    hint: Option<String>,
}

/// What was found, in order.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, area: &'static str, level: Level, message: impl Into<String>) -> &mut Finding {
        self.0.push(Finding { area, level, message: message.into(), hint: None });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|finding| finding.level == level).count()
    }
}

impl Finding {
    fn hint(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into());
    }

    /// A failure as a finding: its sentence and its hint.
    fn of(&mut self, failure: Failure) {
        self.message = format!("{}{}", self.message, failure.error);
        self.hint = failure.hint;
    }
}

pub(super) async fn run(args: DoctorArgs) -> Result<(), Failure> {
    telemetry::to_stderr();
    let mut findings = Findings::default();
    let flags = [("policies", args.policies), ("listen", args.listen), ("data_dir", args.store.data_dir)];
    match Config::load(args.store.config.as_deref(), &flags) {
        Ok(config) => look(&config, args.send, &mut findings).await?,
        Err(error) => findings.add("configuration", Level::Error, "").of(error.into()),
    }
    if args.json {
        print_json(&findings)?;
    } else {
        print_text(&findings);
    }
    let bad = findings.count(Level::Error) + findings.count(Level::Critical);
    if bad == 0 {
        return Ok(());
    }
    let is = if bad == 1 { "finding stands" } else { "findings stand" };
    Err(Failure { exit: 1, ..Failure::new(format!("{bad} {is} in the way of production")) })
}

async fn look(config: &Config, send: bool, findings: &mut Findings) -> Result<(), Failure> {
    let now = Clock::System.now();
    setup::look(config, findings);
    outages::look(config, findings);
    channels::look(config, send, findings).await;
    let opened = database::look(config, findings).await?;
    if let Some(OpenStore { store, .. }) = &opened {
        database::look_at_log(config, store, findings).await;
    }
    let names = policies::look(config, now, findings).await;
    let Some(opened) = opened else { return Ok(()) };
    if let Err(error) = tenants::look(&opened.store, now, names.as_ref(), findings).await {
        findings.add("tenants", Level::Error, "").of(error.into());
    }
    opened.close().await
}

fn print_json(findings: &Findings) -> Result<(), Failure> {
    let shown = json!({
        "findings": findings.0,
        "ok": findings.count(Level::Error) + findings.count(Level::Critical) == 0,
    });
    println!("{}", serde_json::to_string_pretty(&shown).map_err(|error| Failure::caused(&error))?);
    Ok(())
}

fn print_text(findings: &Findings) {
    let mut area = "";
    for finding in &findings.0 {
        if finding.area != area {
            println!("{}{}", if area.is_empty() { "" } else { "\n" }, finding.area);
            area = finding.area;
        }
        let level = match finding.level {
            Level::Ok => "ok      ",
            Level::Note => "note    ",
            Level::Warning => "warning ",
            Level::Error => "ERROR   ",
            Level::Critical => "CRITICAL",
        };
        println!("  {level}  {}", finding.message.replace('\n', "\n            "));
        if let Some(hint) = &finding.hint {
            println!("            hint: {hint}");
        }
    }
    println!();
}
