//! The command line.

mod books;
mod policy;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use self::books::*;
pub use self::policy::*;

/// The gate in front of your spending: quotas in PostgreSQL, decisions in WebAssembly policies.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, max_term_width = 100)]
pub struct Cli {
    /// What to do; `dev` where nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build the policies from source, start the embedded store, and serve.
    Dev {
        /// Where it listens, what it decides with, where its data lies.
        #[command(flatten)]
        serve: ServeArgs,
        /// Where the policies' sources are: crates, or a workspace of them.
        #[arg(long, value_name = "DIR", default_value = "policies")]
        sources: PathBuf,
    },
    /// Serve with policies that are built already.
    Serve(ServeArgs),
    /// Bring the database to this version, taking over the tables of the replaced system.
    Migrate(StoreArgs),
    /// Check configuration, database, policies and tenants, and say what to do; changes nothing.
    Doctor(DoctorArgs),
    /// Measure the gate on this machine, beside a bare web server and a bare database.
    Bench(BenchArgs),
    /// List, set and delete quotas.
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// List alerts and their deliveries, and try a channel.
    #[command(subcommand)]
    Alert(AlertCommand),
    /// Take tenants on board, look at them, change their tier, close them.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// List and explain stored decisions.
    #[command(subcommand)]
    Decision(DecisionCommand),
    /// Build and test policies.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Print a shell's completions of this command line.
    Completions {
        /// For `bash`: tollgate completions bash > ~/.local/share/bash-completion/completions/tollgate
        shell: clap_complete::Shell,
    },
    /// What the gate starts as a child: compiles the component on stdin, within limits, to code on stdout.
    #[command(hide = true)]
    CompilePolicy {
        /// Address space.
        #[arg(long)]
        memory_mib: u64,
        /// Processor time.
        #[arg(long)]
        cpu_seconds: u64,
    },
}

/// Flags of `serve` and `dev`; each is also a key of tollgate.toml and a `TOLLGATE_` variable.
#[derive(Debug, Default, Args)]
pub struct ServeArgs {
    /// 127.0.0.1:8080 or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// The policy folder [default: policies in the data directory]
    #[arg(long, value_name = "DIR")]
    pub policies: Option<String>,
    /// What a request gets while the store cannot be reached: open, bounded or closed [default: open]
    #[arg(long, value_name = "MODE")]
    pub store_failure: Option<String>,
    /// error, warn, info, debug, trace, or a list of target=level
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Where the store is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Where the store is: `DATABASE_URL`, or the embedded one in the data directory.
#[derive(Debug, Default, Args)]
pub struct StoreArgs {
    /// The embedded store's and tollgate's own files [default: .tollgate]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Configuration to read instead of ./tollgate.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What `doctor` looks at.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The policy folder [default: policies in the data directory]
    #[arg(long, value_name = "DIR")]
    pub policies: Option<String>,
    /// The address that is meant: 127.0.0.1:8080 or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Send a test message to every channel of alerts.
    #[arg(long)]
    pub send: bool,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// Where the store is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// What `bench` measures; it uses an embedded store of its own.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Seconds for each line of the table.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub seconds: u64,
    /// Only the lines whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// The figures as JSON, after the table.
    #[arg(long)]
    pub json: bool,
    /// Tenants in the table, each with three quotas.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = tenants)]
    pub tenants: usize,
    /// The policy folder [default: policies in the data directory]
    #[arg(long, value_name = "DIR")]
    pub policies: Option<String>,
    /// Where the configuration is.
    #[command(flatten)]
    pub store: StoreArgs,
}

fn tenants(text: &str) -> Result<usize, String> {
    let tenants = text.parse().ok().filter(|tenants| (1..=10_000_000).contains(tenants));
    tenants.ok_or_else(|| "1 to 10000000".to_owned())
}

impl Command {
    /// What `tollgate` alone means.
    pub fn dev() -> Self {
        Self::Dev { serve: ServeArgs::default(), sources: "policies".into() }
    }
}
