//! The commands: wire the world and hand it over.

// First, for the rest of the room to have its macros.
#[macro_use]
mod say;

mod alert;
mod bench;
mod completions;
mod decision;
mod doctor;
mod explore;
mod opened;
mod policy;
mod policy_bench;
mod quota;
mod replay;
mod serve;
mod since;
mod source;
mod table;
mod tenant;

use std::error::Error;
use std::path::Path;

use self::opened::{OpenStore, configured};
use crate::causes;
use crate::cli::{Cli, Command, StoreArgs};
use crate::config::ConfigError;
use crate::policy::PolicyError;
use crate::policy::build::BuildError;
use crate::policy::compile::{self, ChildError};
use crate::store::StoreError;
use crate::store::embedded::EmbeddedError;
use crate::telemetry;

/// A command that did not do what it was asked: `error: …`, the cause, `hint: …`.
#[derive(Debug)]
pub struct Failure {
    error: String,
    hint: Option<String>,
    /// 1 a denial, a failed fixture or check; 2 usage or operation.
    pub exit: u8,
}

impl Failure {
    fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), hint: None, exit: 2 }
    }

    fn caused(error: &dyn Error) -> Self {
        Self::new(causes::of(error).join("\n  because: "))
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// As it is printed on stderr.
    pub fn text(&self) -> String {
        let hint = self.hint.as_ref().map_or_else(String::new, |hint| format!("\nhint: {hint}"));
        say::harmless(&format!("error: {}{hint}", self.error)).into_owned()
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::caused(&error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { hint: error.hint(), ..Self::caused(&error) }
    }
}

impl From<EmbeddedError> for Failure {
    fn from(error: EmbeddedError) -> Self {
        Self { hint: error.hint(), ..Self::caused(&error) }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self { hint: error.hint.clone(), ..Self::caused(&error) }
    }
}

impl From<ChildError> for Failure {
    fn from(error: ChildError) -> Self {
        let exit = if matches!(error, ChildError::Component(_)) { 1 } else { 2 };
        Self { exit, ..Self::caused(&error) }
    }
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Self {
        Self::caused(&error)
    }
}

/// Runs what the command line says.
///
/// # Errors
/// What went wrong, as the person who typed it should read it.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command.unwrap_or_else(Command::dev) {
        Command::Dev { serve, sources } => serve::dev(serve, sources).await,
        Command::Serve(args) => serve::serve(args).await,
        Command::Migrate(args) => migrate(args).await,
        Command::Alert(command) => alert::run(command).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Quota(command) => quota::run(command).await,
        Command::Tenant(command) => tenant::run(command).await,
        Command::Decision(command) => decision::run(command).await,
        Command::Policy(command) => policy::run(command).await,
        Command::Completions { shell } => {
            completions::print(shell);
            Ok(())
        }
        Command::CompilePolicy { memory_mib, cpu_seconds } => Ok(compile::child(memory_mib, cpu_seconds)?),
    }?;
    say::all_was_written()
}

async fn migrate(args: StoreArgs) -> Result<(), Failure> {
    telemetry::to_stderr();
    let opened = OpenStore::open_or_create(&configured(&args)?).await?;
    println!("The database is at this version.");
    opened.close().await
}

/// Who runs this command, for the audit table.
fn actor() -> String {
    let id = nix::unistd::Uid::current();
    let user = nix::unistd::User::from_uid(id).ok().flatten();
    user.map_or_else(|| format!("cli:{id}"), |user| format!("cli:{}", user.name))
}

/// A path as people read it: relative where it lies below the working directory.
fn shown(path: &Path) -> String {
    let here = std::path::absolute(".").unwrap_or_default();
    let shown = path.strip_prefix(&here).unwrap_or(path);
    shown.display().to_string()
}
