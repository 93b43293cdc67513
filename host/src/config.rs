//! Configuration: `tollgate.toml`, then the environment, then flags. The only place that reads the environment.
//!
//! - `keys`: what can be set, and where a value comes from
//! - `file`, `environment`: the first two of the three places
//! - `tokens`: who may call
//! - `alerts`: the channels of alerts

mod alerts;
mod environment;
mod file;
mod keys;
mod surroundings;
mod tokens;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::api::auth::{Access, Transport};
use crate::gate::{Enforcement, StoreFailure};
use crate::money::Money;
use crate::tiers::Templates;

pub use self::alerts::AlertConfig;
pub use self::keys::Setting;
use self::keys::{Origin, Values};
pub use self::surroundings::Surroundings;
use self::tokens::APP_TOKEN;

/// The file that is read where no other is named; it need not exist.
pub const FILE: &str = "tollgate.toml";
/// The longest that decisions are kept, but for ever: ten years.
const MOST_DAYS: u32 = 3_650;

/// Where the gate listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// `http://127.0.0.1:8080`, `unix:/run/tollgate.sock`.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What the gate runs with.
#[derive(Clone)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// The policy folder.
    pub policies: PathBuf,
    /// The embedded store's and our own files.
    pub data_dir: PathBuf,
    /// `info`, or a list of `target=level`.
    pub log_level: String,
    /// PostgreSQL; the embedded one where it is not set.
    pub database_url: Option<String>,
    /// What a request gets while the store cannot be reached.
    pub store_failure: StoreFailure,
    /// What is kept for the books meanwhile, at most, in MiB.
    pub spool_mib: u64,
    /// How long decisions are kept, in days; `None` is for ever.
    pub decisions_keep_days: Option<u32>,
    /// Which resource types are enforced.
    pub enforcement: Enforcement,
    /// What people are told, and how.
    pub alerts: AlertConfig,
    /// Who may call what.
    pub access: Access,
    /// What the tenants of each tier are given.
    pub tiers: Templates,
    /// Every value and where it comes from, for people.
    pub settings: Vec<Setting>,
    /// The same, for errors that only show when a value is used.
    values: Values,
    /// What the process was started in.
    pub surroundings: Surroundings,
}

/// What is wrong with the configuration, and where it stands.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {fault}")]
pub struct ConfigError {
    origin: String,
    fault: String,
}

impl ConfigError {
    fn new(origin: impl fmt::Display, fault: impl fmt::Display) -> Self {
        Self { origin: origin.to_string(), fault: fault.to_string() }
    }
}

impl Config {
    /// Reads the file (`named`, or `tollgate.toml` where it exists) and this process's environment; `flags` go over both.
    ///
    /// # Errors
    /// A key is unknown, a value is not of its kind, or the address needs tokens that are not set.
    pub fn load(named: Option<&Path>, flags: &[(&'static str, Option<String>)]) -> Result<Self, ConfigError> {
        let environment = environment::ours(std::env::vars_os())?;
        Self::from_parts(named, &environment, flags, Surroundings::of_this_process())
    }

    /// That the gate may listen where it is told to.
    ///
    /// # Errors
    /// The address is one that others reach, and there are no tokens.
    pub fn check_listen(&self) -> Result<(), ConfigError> {
        if self.access.transport != Transport::Network || !self.access.app.is_empty() {
            return Ok(());
        }
        let address = self.listen.to_string();
        let fault = format!(
            "{} is no loopback address, and without tokens anybody there could spend; set {APP_TOKEN} or {APP_TOKEN}_FILE",
            address.trim_start_matches("http://")
        );
        Err(self.fault("listen", fault))
    }

    /// An error about the value of a key, by the name under which it was set.
    pub fn fault(&self, key: &str, fault: impl fmt::Display) -> ConfigError {
        self.values.fault(key, fault)
    }

    fn from_parts(
        named: Option<&Path>,
        environment: &BTreeMap<String, String>,
        flags: &[(&'static str, Option<String>)],
        surroundings: Surroundings,
    ) -> Result<Self, ConfigError> {
        let mut values = Values::of_defaults();
        let tiers = file::read(named, &mut values)?;
        environment::read(environment, &mut values)?;
        for (name, text) in flags {
            if let Some(text) = text {
                values.put(name, text.clone(), Origin::Flag(format!("--{}", name.replace('_', "-"))));
            }
        }
        let listen = listen(values.text("listen")).map_err(|problem| values.fault("listen", problem))?;
        let access = Access {
            app: tokens::app(environment)?,
            admin: tokens::admin(environment)?,
            transport: match &listen {
                Listen::Unix(_) => Transport::Unix,
                Listen::Tcp(address) if address.ip().is_loopback() => Transport::Loopback,
                Listen::Tcp(_) => Transport::Network,
            },
        };
        let data_dir = PathBuf::from(values.text("data_dir"));
        let bound = Money::parse(values.text("store_failure_bound_usd"))
            .map_err(|problem| values.fault("store_failure_bound_usd", problem.to_string()))?;
        let store_failure = match values.text("store_failure") {
            "open" => StoreFailure::Open,
            "bounded" => StoreFailure::Bounded(bound),
            "closed" => StoreFailure::Closed,
            other => return Err(values.fault("store_failure", format!("open, bounded or closed, got {other:?}"))),
        };
        let spool_mib = values.text("spool_mib");
        let spool_mib = (spool_mib.parse().ok().filter(|mib| (1..=1_048_576).contains(mib)))
            .ok_or_else(|| values.fault("spool_mib", format!("1 to 1048576, got {spool_mib:?}")))?;
        Ok(Self {
            policies: values.given("policies").map_or_else(|| data_dir.join("policies"), PathBuf::from),
            data_dir,
            log_level: values.text("log_level").to_owned(),
            database_url: values.given("database_url").filter(|url| !url.is_empty()).map(str::to_owned),
            store_failure,
            spool_mib,
            decisions_keep_days: keep_days(&values)?,
            enforcement: Enforcement {
                e2b: values.flag("enforce_e2b_quotas")?,
                others: values.flag("enforce_cost_quotas")?,
            },
            settings: values.settings().chain(tokens::settings(environment)).collect(),
            tiers,
            listen,
            alerts: alerts::read(&values)?,
            access,
            surroundings,
            values,
        })
    }
}

/// How long decisions are kept; 0 is for ever.
fn keep_days(values: &Values) -> Result<Option<u32>, ConfigError> {
    let text = values.text("decisions_keep_days");
    let days = text.parse().ok().filter(|days| *days <= MOST_DAYS).ok_or_else(|| {
        values.fault("decisions_keep_days", format!("days, 1 to {MOST_DAYS}, or 0 for ever, got {text:?}"))
    })?;
    Ok(Some(days).filter(|days| *days > 0))
}

fn listen(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() { Err("unix: and a path".to_owned()) } else { Ok(Listen::Unix(path.into())) };
    }
    let text = text.replace("localhost:", "127.0.0.1:");
    text.parse()
        .map(Listen::Tcp)
        .map_err(|_| format!("an address and port (127.0.0.1:8080) or unix:PATH, got {text:?}"))
}

#[cfg(test)]
mod tests;
