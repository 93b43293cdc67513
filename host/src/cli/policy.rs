//! The command line of `policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::StoreArgs;

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
    #[arg(long, conflicts_with_all = ["json", "junit", "update", "watch"])]
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
