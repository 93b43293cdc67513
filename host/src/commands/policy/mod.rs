//! `policy`: the author's loop, a file for each command.

mod build;
mod change;
mod inspect;
mod new;
mod test;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use tokio::runtime::Handle;

use super::{Failure, explore, policy_bench, replay};
use crate::cli::PolicyCommand;
use crate::policy::AtRest;
use crate::telemetry;

pub(super) async fn run(command: PolicyCommand) -> Result<(), Failure> {
    telemetry::to_stderr();
    let work = move || match command {
        PolicyCommand::New { name, lang } => new::new(&name, lang),
        PolicyCommand::Build { paths, out } => build::build(&paths, &out),
        PolicyCommand::Inspect { paths, json } => inspect::inspect(&paths, json),
        PolicyCommand::Test(args) if args.explore.explore => explore::run(&components(&args.paths)?, &args.explore),
        PolicyCommand::Test(args) => test::test(&args),
        PolicyCommand::Bench(args) => policy_bench::run(&components(&args.paths)?, &args),
        PolicyCommand::Replay(args) => Handle::current().block_on(replay::run(args)),
        PolicyCommand::Promote(args) => change::change(args, AtRest::promote),
        PolicyCommand::Rollback(args) => change::change(args, AtRest::rollback),
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::new(error.to_string()))?
}

/// The components that `paths` name: files, and those of folders. What a promotion has left in a folder is not read there
/// by a host either.
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
            let is_previous = |stem: &OsStr| stem.as_encoded_bytes().ends_with(b".previous");
            if file.extension().is_some_and(|extension| extension == "wasm")
                && !file.file_stem().is_some_and(is_previous)
            {
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
