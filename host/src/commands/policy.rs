//! `policy build`, `test`, `promote` and `rollback`; what takes more has a file of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::runtime::Handle;

use super::{Failure, explore, policy_bench, replay, shown};
use crate::cli::{PolicyChangeArgs, PolicyCommand};
use crate::clock::Clock;
use crate::config::{Config, Surroundings};
use crate::policy::build::build;
use crate::policy::engine::Engine;
use crate::policy::fixture::Fixtures;
use crate::policy::folder::ChangeError;
use crate::policy::manifest::Manifest;
use crate::policy::{Folder, Generation, Workshop};
use crate::telemetry;

pub(super) async fn run(command: PolicyCommand) -> Result<(), Failure> {
    telemetry::to_stderr();
    let work = move || match command {
        PolicyCommand::Build { paths, out } => {
            for policy in build(&paths, &out, Surroundings::of_this_process().home.as_deref())? {
                println!("{}  {} KiB", shown(&policy.file), policy.size.div_ceil(1024));
            }
            Ok(())
        }
        PolicyCommand::Test { paths, explore: args } if args.explore => explore::run(&components(&paths)?, &args),
        PolicyCommand::Test { paths, .. } => test(&paths),
        PolicyCommand::Bench(args) => policy_bench::run(&components(&args.paths)?, &args),
        PolicyCommand::Promote(args) => change(args, Folder::promote),
        PolicyCommand::Rollback(args) => change(args, Folder::rollback),
        PolicyCommand::Replay(args) => Handle::current().block_on(replay::run(args)),
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::new(error.to_string()))?
}

type Change = fn(&Folder, &str, Option<&str>, DateTime<Utc>) -> Result<Arc<Generation>, ChangeError>;

/// Changes the folder; a host that serves from it watches it.
fn change(args: PolicyChangeArgs, change: Change) -> Result<(), Failure> {
    let PolicyChangeArgs { name, digest, policies, store } = args;
    let flags = [("policies", policies), ("data_dir", store.data_dir)];
    let config = Config::load(store.config.as_deref(), &flags)?;
    let now = Clock::System.now();
    let folder = Folder::open(config.policies.clone(), Workshop::default(), now)
        .map_err(|error| Failure::from(error).hint("name the policy folder with --policies DIR"))?;
    let generation = change(&folder, &name, digest.as_deref(), now).map_err(|error| Failure::caused(&error))?;
    let live = generation.statuses().into_iter().find(|status| status.name == name).and_then(|status| status.serving);
    let digest = live.map(|live| live.digest).unwrap_or_default();
    println!("{name} is {digest} in {}; hosts that watch the folder follow.", shown(&config.policies));
    Ok(())
}

fn test(paths: &[PathBuf]) -> Result<(), Failure> {
    let engine = Engine::new()?;
    let (mut passed, mut failed) = (0, 0);
    for component in components(paths)? {
        println!("{}", shown(&component));
        for (name, differences) in test_one(&engine, &component)? {
            println!("  {} {name}", if differences.is_empty() { "ok    " } else { "FAILED" });
            for difference in &differences {
                println!("         {difference}");
            }
            if differences.is_empty() { passed += 1 } else { failed += 1 }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        return Ok(());
    }
    Err(Failure { exit: 1, ..Failure::new(format!("{failed} fixtures failed")) })
}

fn components(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |path: &Path, error| Failure::new(format!("{}: {error}", path.display()));
    let mut components = Vec::new();
    for path in paths {
        if !fs::metadata(path).map_err(|error| unreadable(path, error))?.is_dir() {
            components.push(path.clone());
            continue;
        }
        for entry in fs::read_dir(path).map_err(|error| unreadable(path, error))? {
            let file = entry.map_err(|error| unreadable(path, error))?.path();
            if file.extension().is_some_and(|extension| extension == "wasm") {
                components.push(file);
            }
        }
    }
    components.sort();
    if components.is_empty() {
        return Err(Failure::new("no policies there").hint("build some with `tollgate policy build PATH --out DIR`"));
    }
    Ok(components)
}

/// The cases of one policy, each with what differs.
fn test_one(engine: &Engine, component: &Path) -> Result<Vec<(String, Vec<String>)>, Failure> {
    let fault = |path: &Path, error: String| Failure::new(format!("{}: {error}", path.display()));
    let beside = |extension: &str| component.with_extension(extension);
    let text = |path: &Path| match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(|error| fault(path, error.to_string())),
    };
    let manifest_path = beside("toml");
    let manifest = Manifest::parse(&text(&manifest_path)?.unwrap_or_default())
        .map_err(|error| fault(&manifest_path, error.to_string()))?;
    let fixtures_path = beside("fixtures.toml");
    let fixtures = text(&fixtures_path)?.ok_or_else(|| {
        fault(&fixtures_path, "not there".to_owned()).hint("a policy's fixtures lie beside it, as NAME.fixtures.toml")
    })?;
    let fixtures = Fixtures::parse(&fixtures).map_err(|error| fault(&fixtures_path, error))?;
    let bytes = fs::read(component).map_err(|error| fault(component, error.to_string()))?;
    let policy = engine.compile(&bytes, manifest.limits()?).map_err(|error| fault(component, error.to_string()))?;
    let description = policy.describe()?;
    let settings = manifest.resolve(&description).map_err(|error| fault(&manifest_path, error.to_string()))?;
    policy.validate_settings(&settings).map_err(|error| fault(&manifest_path, error.to_string()))?;
    let settings = Manifest::for_fixtures(&description, &settings);
    Ok(fixtures.run(&policy, &settings).into_iter().map(|case| (case.name, case.differences)).collect())
}
