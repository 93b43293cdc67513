//! `policy test --explore`: generated facts at built policies.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::source::{Source, compiler};
use super::{Failure, shown};
use crate::cli::ExploreArgs;
use crate::policy::Engine;
use crate::policy::explore::{Plan, explore};

/// What takes longer tells how far it is.
const SILENT: Duration = Duration::from_secs(1);
/// Between two lines of progress.
const TOLD_EVERY: u32 = 100;

pub(super) fn run(components: &[PathBuf], args: &ExploreArgs) -> Result<(), Failure> {
    let (engine, compiler) = (Engine::new()?, compiler());
    // Any number does; the next run should try another.
    let seed = args.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let mut found = 0;
    for component in components {
        let source = Source::read(component)?;
        let ready = source.compile(&engine, &compiler)?;
        let known = source.fixtures.as_ref().map(|fixtures| fixtures.questions(&ready.settings_of_fixtures));
        let plan = Plan {
            seed,
            questions: args.questions,
            known: known.unwrap_or_default(),
            defaults: ready.settings_of_fixtures,
            settings: ready.settings,
        };
        let started = Instant::now();
        let tells = std::io::stderr().is_terminal();
        let mut told = false;
        let explored = explore(&ready.compiled, &plan, |asked| {
            if tells && asked % TOLD_EVERY == 0 && started.elapsed() > SILENT {
                eprint!("\r{asked} of {} questions ", plan.questions);
                let _ = std::io::stderr().flush();
                told = true;
            }
        });
        if told {
            eprint!("\r\x1b[K");
        }
        println!("{}  {} questions, seed {seed}", shown(component), explored.questions);
        if explored.findings.is_empty() {
            println!("  nothing found");
        }
        found += explored.findings.len();
        for finding in explored.findings {
            println!("  FOUND {} ({} times)\n\n{}", finding.told, finding.times, finding.fixtures);
        }
    }
    if found == 0 {
        return Ok(());
    }
    let failure = Failure { exit: 1, ..Failure::new(format!("{found} things that no policy should do")) };
    Err(failure.hint("paste the cases into NAME.fixtures.toml, and say in `expect` what is right"))
}
