//! The command line.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand};

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

/// Quotas, on the store directly.
#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    /// The quotas and how they stand.
    List {
        /// Only this scope: tenant, user, pool, global.
        #[arg(long)]
        scope: Option<String>,
        /// Only this scope id.
        #[arg(long)]
        scope_id: Option<String>,
        /// Only this resource type.
        #[arg(long)]
        resource_type: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Create a quota, or change its limits; what is spent stays.
    Set {
        /// Which one.
        #[command(flatten)]
        key: QuotaKeyArgs,
        /// USD that may be spent in a window, such as 50.00.
        limit: String,
        /// A ceiling in USD that holds whatever the policy says.
        #[arg(long, value_name = "USD")]
        hard_limit: Option<String>,
        /// Percents of the limit at which an alert is due, such as 80,90,100.
        #[arg(long, value_delimiter = ',', value_name = "PERCENTS")]
        thresholds: Option<Vec<i16>>,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Give a quota another limit for a time; it ends by itself.
    Override {
        /// Which one.
        #[command(flatten)]
        key: QuotaKeyArgs,
        /// USD that may be spent in a window meanwhile, such as 75.00.
        #[arg(required_unless_present = "end")]
        limit: Option<String>,
        /// When it ends, such as 2026-01-04T18:00:00Z.
        #[arg(long, value_name = "INSTANT", required_unless_present = "end")]
        until: Option<DateTime<Utc>>,
        /// Why; for the audit table.
        #[arg(long, value_name = "TEXT", required_unless_present = "end")]
        reason: Option<String>,
        /// End it now.
        #[arg(long, conflicts_with_all = ["limit", "until"])]
        end: bool,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Delete a quota. Without any quota a resource is unlimited.
    Delete {
        /// Which one.
        #[command(flatten)]
        key: QuotaKeyArgs,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Tenants, on the store directly.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Create a tenant and all quotas of its tier, in one step. Safe to repeat: what is there stays.
    Onboard {
        /// Who: 1 to 128 characters.
        tenant: String,
        /// free, pro, enterprise, or another template of tollgate.toml.
        #[arg(long)]
        tier: String,
        /// A pool that it shares with other tenants.
        #[arg(long)]
        pool: Option<String>,
        /// How it is done.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// All that support needs, on one screen.
    Show {
        /// Who.
        tenant: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Every tenant, and which of its quotas are missing.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Give a tenant another tier and the limits of its template; what is spent stays.
    SetTier {
        /// Who.
        tenant: String,
        /// free, pro, enterprise, or another template of tollgate.toml.
        tier: String,
        /// Change no quota that is there.
        #[arg(long)]
        keep_quotas: bool,
        /// How it is done.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Close a tenant: limits that allow nothing. Its books stay, and without quotas it would be unlimited.
    Offboard {
        /// Who.
        tenant: String,
        /// How it is done.
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// How a change of a tenant is done.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Show the plan and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Why; for the audit table.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Where the store is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// What makes a quota the one it is.
#[derive(Debug, Args)]
pub struct QuotaKeyArgs {
    /// tenant, user, pool, global
    pub scope: String,
    /// acme-corp, acme-corp/u-42, eu-team, *
    pub scope_id: String,
    /// llm, e2b, …
    pub resource_type: String,
    /// hour, day, week, month, lifetime
    pub period: String,
}

/// Stored decisions, from the store directly.
#[derive(Debug, Subcommand)]
pub enum DecisionCommand {
    /// The newest decisions; denials are all stored, allowed checks up to a rate.
    List {
        /// Only of this tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// Only allowed, denied, unenforced or failed.
        #[arg(long)]
        outcome: Option<String>,
        /// Only of the last 90m, 24h or 7d, or since an instant such as 2026-01-04T12:00:00Z.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        /// As JSON, with the facts.
        #[arg(long)]
        json: bool,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// One decision: what its policy saw and answered, which quota bound, what became of the reservation.
    Explain {
        /// The `decisionId` of an answer or a log line.
        id: String,
        /// As a fixture for NAME.fixtures.toml instead.
        #[arg(long)]
        fixture: bool,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Alerts, on the store directly, and their channels.
#[derive(Debug, Subcommand)]
pub enum AlertCommand {
    /// The alerts, newest first, and how their messages are on their way.
    List {
        /// Only this scope: tenant, user, pool, global.
        #[arg(long)]
        scope: Option<String>,
        /// Only this scope id.
        #[arg(long)]
        scope_id: Option<String>,
        /// Only alerts with a delivery in this state: due, sent, failed.
        #[arg(long, value_parser = ["due", "sent", "failed"])]
        state: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Send a test message.
    Test {
        /// slack, email or pagerduty; one that `alert_channels` names.
        channel: String,
        /// Configuration to read instead of ./tollgate.toml
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

/// Policies, without a store.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Start a policy: a folder that builds and passes its fixtures.
    New {
        /// The tier that it is for; the folder is called so.
        name: String,
        /// What it is written in.
        #[arg(long, value_enum, default_value_t = PolicyLanguage::Rust)]
        lang: PolicyLanguage,
    },
    /// Build policies to components.
    Build {
        /// Crates, or workspaces of them; folders with a package.json (JavaScript) or a policy.py (Python).
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Where NAME.wasm goes, with its NAME.toml and NAME.fixtures.toml.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Tell what built policies are, and whether a host would take them.
    Inspect {
        /// NAME.wasm files, or folders of them.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run the fixtures of built policies.
    Test(PolicyTestArgs),
    /// Measure policies: time and instructions per decision, and memory.
    Bench(PolicyBenchArgs),
    /// Ask a candidate what was decided before: who would now be denied or allowed, and how much money that is.
    Replay(ReplayArgs),
    /// Make NAME.next.wasm the live policy; hosts that watch the folder follow.
    Promote(PolicyChangeArgs),
    /// Put back what was live before the last promotion, or undo the last rollback.
    Rollback(PolicyChangeArgs),
}

/// What a policy can be started in.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum PolicyLanguage {
    /// A crate.
    Rust,
    /// A package of npm.
    Javascript,
    /// A module.
    Python,
}

/// Which fixtures run, and how their results are told.
#[derive(Debug, Args)]
pub struct PolicyTestArgs {
    /// NAME.wasm files, or folders of them; their fixtures lie beside them.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// As JSON; with --watch an object on a line for each run.
    #[arg(long)]
    pub json: bool,
    /// Write the results to this file too, as `JUnit` XML.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write what was decided into the fixtures, where something else is expected.
    #[arg(long, conflicts_with = "watch")]
    pub update: bool,
    /// Test again whenever a file changes, until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
    /// Generated facts instead of fixtures.
    #[command(flatten)]
    pub explore: ExploreArgs,
}

/// Facts that no fixture thought of.
#[derive(Debug, Args)]
pub struct ExploreArgs {
    /// Generate facts, and look for failures, answers that differ, and more allowed where less is denied.
    #[arg(long)]
    pub explore: bool,
    /// Generate the same facts as the run that printed this.
    #[arg(long, requires = "explore")]
    pub seed: Option<u64>,
    /// How many questions; each is asked several times.
    #[arg(long, value_name = "N", requires = "explore", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub questions: u32,
}

/// What `policy bench` measures, and what it must not be above.
#[derive(Debug, Args)]
pub struct PolicyBenchArgs {
    /// NAME.wasm files, or folders of them; what their fixtures ask is measured.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Milliseconds for each policy.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub time: u64,
    /// Write the figures to a file, for a later --against.
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Show what has changed since a saved run.
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// End with 1 if a decision takes more instructions.
    #[arg(long, value_name = "N")]
    pub max_fuel: Option<u64>,
    /// End with 1 if one decision in a hundred takes longer, such as 50us or 2ms.
    #[arg(long, value_name = "TIME")]
    pub max_p99: Option<String>,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which decisions, and under what.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The candidate, NEW.wasm; its settings are those of NEW.toml beside it.
    #[arg(value_name = "NEW.wasm")]
    pub candidate: PathBuf,
    /// The decisions of the last 90m, 24h or 7d, or since an instant such as 2026-01-04T12:00:00Z.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub since: String,
    /// Only those that this policy made.
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// Only of this tenant.
    #[arg(long)]
    pub tenant: Option<String>,
    /// As JSON, with every tenant.
    #[arg(long)]
    pub json: bool,
    /// Where the store is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Which policy of which folder.
#[derive(Debug, Args)]
pub struct PolicyChangeArgs {
    /// The policy's name, which is its tier.
    pub name: String,
    /// Only if this is the version that would go live, such as sha256:861e572d…
    #[arg(long)]
    pub digest: Option<String>,
    /// The policy folder [default: policies in the data directory]
    #[arg(long, value_name = "DIR")]
    pub policies: Option<String>,
    /// Where the configuration is.
    #[command(flatten)]
    pub store: StoreArgs,
}

impl Command {
    /// What `tollgate` alone means.
    pub fn dev() -> Self {
        Self::Dev { serve: ServeArgs::default(), sources: "policies".into() }
    }
}
