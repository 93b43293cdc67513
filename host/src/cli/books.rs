//! The command lines of what is in the store: quotas, tenants, decisions, alerts.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};

use super::StoreArgs;

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
