//! `policy test`: fixtures, by the code that serves, under the limits of production.
//!
//! Every policy is tested and every failure is shown, whatever went wrong with those before. Exit 1 is a fixture that
//! failed; 2 is a policy that could not be tested.

mod junit;
mod report;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use self::report::Tested;
use super::components;
use crate::cli::PolicyTestArgs;
use crate::commands::source::compiler;
use crate::commands::{Failure, shown};
use crate::policy::build::replace_file;
use crate::policy::changes::Changes;
use crate::policy::compile::Compiler;
use crate::policy::fixture::{self, CaseResult};
use crate::policy::{Engine, Trial};

pub(super) fn test(args: &PolicyTestArgs) -> Result<(), Failure> {
    let bench = Bench { engine: Engine::new()?, compiler: compiler() };
    if !args.watch {
        return once(&bench, args);
    }
    let mut seen = None;
    let changes = Changes::of(&folders(&args.paths));
    loop {
        // First the look, then the test: what changes meanwhile is seen by the next look.
        let now = Some(stamps(&args.paths));
        if now != seen {
            seen = now;
            if let Err(failure) = once(&bench, args) {
                eprintln!("{}", failure.text());
            }
            if !args.json {
                println!("Waiting for changes; Ctrl-C ends it.");
            }
        }
        changes.wait();
    }
}

/// What tests need, made once.
struct Bench {
    engine: Engine,
    compiler: Compiler,
}

fn once(bench: &Bench, args: &PolicyTestArgs) -> Result<(), Failure> {
    let mut all = Vec::new();
    let mut failure = None;
    for component in components(&args.paths)? {
        if !args.json {
            println!("{}", shown(&component));
        }
        let (digest, cases, error) = match bench.test(&component) {
            Ok((digest, cases)) => (Some(digest), cases, None),
            Err(error) => (None, None, Some(error)),
        };
        // Fixtures are optional in a folder; who names a policy wants it tested.
        let error =
            error.or_else(|| (cases.is_none() && args.paths.contains(&component)).then(|| untested(&component)));
        let told = error.as_ref().map(|failure| failure.error.clone());
        let skipped = cases.is_none() && error.is_none();
        let mut tested = Tested { component, digest, skipped, cases: cases.unwrap_or_default(), error: told };
        let updated = if args.update { update(&mut tested)? } else { 0 };
        if !args.json {
            print!("{}", tested.text());
            if updated > 0 {
                println!("  {updated} expectations written to {}", shown(&fixtures_of(&tested.component)));
            }
        }
        // The last one is the command's own.
        if let Some(error) = error
            && let Some(earlier) = failure.replace(error)
        {
            eprintln!("{}", earlier.text());
        }
        all.push(tested);
    }
    if let Some(file) = &args.junit {
        replace_file(file, junit::document(&all).as_bytes())
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", shown(file))))?;
    }
    let failed = all.iter().map(Tested::failed).sum::<usize>();
    if args.json {
        println!("{}", report::document(&all));
    } else {
        let passed = all.iter().map(|tested| tested.cases.len()).sum::<usize>() - failed;
        println!("{passed} passed, {failed} failed");
    }
    match failure {
        Some(failure) => Err(failure),
        None if failed == 0 => Ok(()),
        None => {
            let fixtures = if failed == 1 { "fixture" } else { "fixtures" };
            let failure = Failure { exit: 1, ..Failure::new(format!("{failed} {fixtures} failed")) };
            Err(failure.hint("change the policy or what is expected of it; `--update` writes down what it answers"))
        }
    }
}

impl Bench {
    /// What ran, and what its cases came to, if it has any.
    fn test(&self, component: &Path) -> Result<(String, Option<Vec<CaseResult>>), Failure> {
        let fault = |error| Failure::new(format!("{}: {error}", shown(component)));
        let trial = Trial::open(&self.engine, &self.compiler, component).map_err(fault)?;
        let has_fixtures = trial.has_fixtures().map_err(fault)?;
        let cases = has_fixtures.then(|| trial.run().map_err(fault)).transpose()?;
        Ok((trial.digest().to_owned(), cases))
    }
}

/// A policy that was named, and has nothing to test it by.
fn untested(component: &Path) -> Failure {
    let file = fixtures_of(component);
    if file.exists() {
        return Failure::new(format!("{}: has no case", shown(&file)))
            .hint("write a [[case]] or a [[sequence]] into it, or name the folder, where fixtures are optional");
    }
    Failure::new(format!("{}: not there", shown(&file)))
        .hint("a policy's fixtures lie beside it, as NAME.fixtures.toml")
}

/// Writes what was decided in the place of what was expected; what could not be decided still fails. Tells how many
/// expectations that were.
fn update(tested: &mut Tested) -> Result<usize, Failure> {
    let file = fixtures_of(&tested.component);
    let fault = |what: String| Failure::new(format!("{}: {what}", shown(&file)));
    if !tested.cases.iter().any(|case| !case.differences.is_empty()) {
        return Ok(0);
    }
    let text = fs::read_to_string(&file).map_err(|error| fault(error.to_string()))?;
    let text = fixture::updated(&text, &tested.cases).map_err(fault)?;
    replace_file(&file, text.as_bytes()).map_err(|error| fault(format!("cannot be written: {error}")))?;
    let changed = tested.cases.iter_mut().filter(|case| !case.differences.is_empty());
    Ok(changed.map(|case| case.differences.clear()).count())
}

/// The fixtures that lie beside a component: a candidate's own, else those of the policy that it would replace.
fn fixtures_of(component: &Path) -> PathBuf {
    let own = component.with_extension("fixtures.toml");
    let stem = component.file_stem().unwrap_or_default().to_string_lossy();
    match stem.strip_suffix(".next") {
        Some(name) if !own.exists() => component.with_file_name(format!("{name}.fixtures.toml")),
        _ => own,
    }
}

fn folders(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let folder = |path: &PathBuf| match path.parent() {
        _ if path.is_dir() => path.clone(),
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    paths.iter().map(folder).collect()
}

type Stamp = (PathBuf, u64, Option<SystemTime>);

/// Of all files that a test may depend on.
fn stamps(paths: &[PathBuf]) -> BTreeSet<Stamp> {
    let entries = folders(paths).into_iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let files = entries
        .map(|entry| entry.path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "wasm" || extension == "toml"));
    let stamp = |file: PathBuf| fs::metadata(&file).ok().map(|is| (file, is.len(), is.modified().ok()));
    files.filter_map(stamp).collect()
}
