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
use std::fmt::Write as _;
use std::path::Path;

use sqlx::postgres::PgConnectOptions;

use crate::cli::{Cli, Command, StoreArgs};
use crate::config::{Config, ConfigError};
use crate::policy::PolicyError;
use crate::policy::build::BuildError;
use crate::policy::compile::{self, ChildError};
use crate::store::embedded::{self, Embedded, EmbeddedError};
use crate::store::{Store, StoreError};
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
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(deeper) = cause {
            // Some libraries repeat the cause in their own sentence.
            let sentence = deeper.to_string();
            if !text.contains(&sentence) {
                let _ = write!(text, "\n  because: {sentence}");
            }
            cause = deeper.source();
        }
        Self::new(text)
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// As it is printed on stderr.
    pub fn text(&self) -> String {
        let hint = self.hint.as_ref().map_or_else(String::new, |hint| format!("\nhint: {hint}"));
        format!("error: {}{hint}", self.error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::caused(&error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let failure = Self::caused(&error);
        match error {
            StoreError::Database(_) | StoreError::Unreachable(_) => {
                failure.hint("check DATABASE_URL, or leave it unset to use the embedded PostgreSQL")
            }
            _ => failure,
        }
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
    let opened = OpenStore::open(&configured(&args)?).await?;
    println!("The database is at this version.");
    opened.close().await
}

fn configured(args: &StoreArgs) -> Result<Config, Failure> {
    Ok(Config::load(args.config.as_deref(), &[("data_dir", args.data_dir.clone())])?)
}

/// A store for a command, and the embedded server where the command had to start it.
struct OpenStore {
    store: Store,
    started: Option<Embedded>,
}

impl OpenStore {
    /// `DATABASE_URL`; else the embedded server of a gate that runs; else one that this command starts.
    async fn open(config: &Config) -> Result<Self, Failure> {
        if let Some(options) = external(config)? {
            return Ok(Self { store: Store::open(options).await?, started: None });
        }
        if let Some(options) = embedded::running(&config.data_dir)? {
            return Ok(Self { store: Store::open(options).await?, started: None });
        }
        let started = start_embedded(config).await?;
        match Store::open(started.connect_options()).await {
            Ok(store) => Ok(Self { store, started: Some(started) }),
            Err(error) => {
                started.stop().await?;
                Err(error.into())
            }
        }
    }

    async fn close(self) -> Result<(), Failure> {
        self.store.close().await;
        if let Some(started) = self.started {
            started.stop().await?;
        }
        Ok(())
    }
}

fn external(config: &Config) -> Result<Option<PgConnectOptions>, Failure> {
    let Some(url) = config.database_url.as_deref() else { return Ok(None) };
    // The driver takes any scheme, and would look for PostgreSQL there.
    let is_ours = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    let parsed = if is_ours { url.parse().ok() } else { None };
    // The address holds a password: an error must not repeat it.
    parsed.map(Some).ok_or_else(|| {
        Failure::from(config.fault("database_url", "no address of a PostgreSQL database"))
            .hint("it looks like postgres://user:password@host:5432/database")
    })
}

async fn start_embedded(config: &Config) -> Result<Embedded, Failure> {
    Ok(Embedded::start(&config.data_dir, &config.surroundings.search_path).await?)
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
