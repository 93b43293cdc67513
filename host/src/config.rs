//! Configuration: `tollgate.toml`, then the environment, then flags. The only place that reads the environment.

mod alerts;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::alert::Reach;
use crate::api::auth::{Access, Token, Transport};
use crate::gate::{Enforcement, StoreFailure};
use crate::money::Money;
use crate::nearest;
use crate::quota::TenantId;
use crate::tiers::{self, Templates};

pub use self::alerts::AlertConfig;

/// The file that is read where no other is named; it need not exist.
pub const FILE: &str = "tollgate.toml";
const PREFIX: &str = "TOLLGATE_";
/// The longest that decisions are kept, but for ever: ten years.
const MOST_DAYS: u32 = 3_650;
/// What the replaced system's variables of alerts begin with.
const ALERT_PREFIX: &str = "COST_ALERT_";

/// Every key of the file; each is `TOLLGATE_` and its upper case in the environment, and some are flags.
const KEYS: &[Key] = &[
    Key { name: "listen", default: Some("127.0.0.1:8080"), also: None },
    Key { name: "policies", default: None, also: None },
    Key { name: "data_dir", default: Some(".tollgate"), also: None },
    Key { name: "log_level", default: Some("info"), also: None },
    Key { name: "database_url", default: None, also: Some("DATABASE_URL") },
    Key { name: "store_failure", default: Some("open"), also: None },
    Key { name: "store_failure_bound_usd", default: Some("1.00"), also: None },
    Key { name: "spool_mib", default: Some("256"), also: None },
    Key { name: "decisions_keep_days", default: Some("30"), also: None },
    Key { name: "enforce_cost_quotas", default: Some("true"), also: Some("ENFORCE_COST_QUOTAS") },
    Key { name: "enforce_e2b_quotas", default: Some("true"), also: Some("ENFORCE_E2B_QUOTAS") },
    Key { name: "alert_channels", default: Some("none"), also: Some("COST_ALERT_CHANNELS") },
    Key { name: "alert_slack_webhook_url", default: None, also: Some("COST_ALERT_SLACK_WEBHOOK_URL") },
    Key { name: "alert_email_smtp_host", default: None, also: Some("COST_ALERT_EMAIL_SMTP_HOST") },
    Key { name: "alert_email_smtp_port", default: None, also: Some("COST_ALERT_EMAIL_SMTP_PORT") },
    Key { name: "alert_email_smtp_user", default: None, also: Some("COST_ALERT_EMAIL_SMTP_USER") },
    Key { name: "alert_email_smtp_password", default: None, also: Some("COST_ALERT_EMAIL_SMTP_PASSWORD") },
    Key { name: "alert_email_smtp_security", default: Some("starttls"), also: Some("COST_ALERT_EMAIL_SMTP_SECURITY") },
    Key { name: "alert_email_from", default: None, also: Some("COST_ALERT_EMAIL_FROM") },
    Key { name: "alert_email_to", default: None, also: Some("COST_ALERT_EMAIL_TO") },
    Key { name: "alert_pagerduty_routing_key", default: None, also: Some("COST_ALERT_PAGERDUTY_ROUTING_KEY") },
    Key { name: "alert_pagerduty_url", default: Some("https://events.pagerduty.com/v2/enqueue"), also: None },
    Key { name: "alert_allowed_hosts", default: Some(Reach::HOSTS), also: None },
    Key { name: "alert_allow_private_addresses", default: Some("false"), also: None },
    Key { name: "alert_predicted_exhaustion", default: Some("false"), also: None },
    Key { name: "alert_weekly_summary", default: Some("false"), also: None },
    Key { name: "alert_monthly_summary", default: Some("false"), also: None },
];

/// Keys whose values nobody is shown.
const SECRETS: [&str; 5] = [
    "database_url",
    "alert_slack_webhook_url",
    "alert_email_smtp_password",
    "alert_pagerduty_routing_key",
    // A relay's may hold a key.
    "alert_pagerduty_url",
];

struct Key {
    name: &'static str,
    default: Option<&'static str>,
    /// A variable of the replaced system, or one that everybody knows; goes over `TOLLGATE_…`.
    also: Option<&'static str>,
}

/// Tokens come from the environment or files only, never from `tollgate.toml` or a flag.
const APP_TOKEN: &str = "TOLLGATE_APP_TOKEN";
const ADMIN_TOKEN: &str = "TOLLGATE_ADMIN_TOKEN";

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
    /// Who said so, for an error.
    listen_origin: String,
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
    /// What the process was started in.
    pub surroundings: Surroundings,
}

/// A value of the configuration, as people may see it.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The key.
    pub name: &'static str,
    /// The value; of one that holds a secret, only that it is set.
    pub value: String,
    /// `default`, the file, a variable, or a flag.
    pub origin: String,
}

/// What the process was started in, besides its configuration.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The home of whoever runs it.
    pub home: Option<PathBuf>,
    /// `PATH`: where programs are looked for.
    pub search_path: OsString,
    /// This program, to be started again as a child.
    pub program: Option<PathBuf>,
    /// Where this user's programs keep what they can make again.
    pub cache: Option<PathBuf>,
    /// The working directory.
    pub here: Option<PathBuf>,
}

impl Surroundings {
    /// This process's.
    pub fn of_this_process() -> Self {
        // The link stays ours when the file is replaced by another version.
        let link = PathBuf::from("/proc/self/exe");
        let home = std::env::home_dir();
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
        Self {
            cache: cache.or_else(|| home.as_ref().map(|home| home.join(".cache"))).filter(|dir| dir.is_absolute()),
            here: std::env::current_dir().ok(),
            home,
            search_path: std::env::var_os("PATH").unwrap_or_default(),
            program: if link.exists() { Some(link) } else { std::env::current_exe().ok() },
        }
    }
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

/// A value and where it comes from.
struct Value {
    text: String,
    origin: String,
}

/// Every key's value, and where it comes from.
struct Values(BTreeMap<&'static str, Value>);

impl Values {
    /// The text of a key; empty where it has none.
    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |value| value.text.as_str())
    }

    /// The text of a key that has one.
    fn set(&self, name: &str) -> Option<&str> {
        Some(self.text(name).trim()).filter(|text| !text.is_empty())
    }

    fn flag(&self, name: &str) -> Result<bool, ConfigError> {
        match self.text(name) {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(self.fault(name, format!("true or false, got {other:?}"))),
        }
    }

    /// An error that names the key and where it was set.
    fn fault(&self, name: &str, fault: impl fmt::Display) -> ConfigError {
        let origin = self.0.get(name).map_or(name, |value| value.origin.as_str());
        ConfigError::new(origin, format!("{name}: {fault}"))
    }
}

impl Config {
    /// Reads the file (`named`, or `tollgate.toml` where it exists) and this process's environment; `flags` go over both.
    ///
    /// # Errors
    /// A key is unknown, a value is not of its kind, or the address needs tokens that are not set.
    pub fn load(named: Option<&Path>, flags: &[(&'static str, Option<String>)]) -> Result<Self, ConfigError> {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
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
            "listen: {} is no loopback address, and without tokens anybody there could spend; set {APP_TOKEN} or {APP_TOKEN}_FILE",
            address.trim_start_matches("http://")
        );
        Err(ConfigError::new(&self.listen_origin, fault))
    }

    fn from_parts(
        named: Option<&Path>,
        environment: &BTreeMap<String, String>,
        flags: &[(&'static str, Option<String>)],
        surroundings: Surroundings,
    ) -> Result<Self, ConfigError> {
        let mut values: BTreeMap<&'static str, Value> = KEYS
            .iter()
            .filter_map(|key| Some((key.name, Value { text: key.default?.to_owned(), origin: "default".to_owned() })))
            .collect();
        let tiers = read_file(named, &mut values)?;
        read_environment(environment, &mut values)?;
        for (name, text) in flags {
            if let Some(text) = text {
                let origin = format!("--{}", name.replace('_', "-"));
                values.insert(name, Value { text: text.clone(), origin });
            }
        }
        let values = Values(values);
        let listen = listen(values.text("listen")).map_err(|problem| values.fault("listen", problem))?;
        let access = Access {
            app: app_tokens(environment)?,
            admin: secret(environment, ADMIN_TOKEN)?
                .map(|secret| Token::new("admin".into(), secret.trim(), Vec::new())),
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
            policies: values
                .0
                .get("policies")
                .map_or_else(|| data_dir.join("policies"), |value| value.text.clone().into()),
            data_dir,
            log_level: values.text("log_level").to_owned(),
            database_url: values.0.get("database_url").map(|value| value.text.clone()).filter(|url| !url.is_empty()),
            store_failure,
            spool_mib,
            decisions_keep_days: keep_days(&values)?,
            enforcement: Enforcement {
                e2b: values.flag("enforce_e2b_quotas")?,
                others: values.flag("enforce_cost_quotas")?,
            },
            settings: settings(&values.0, environment),
            tiers,
            listen,
            alerts: alerts::read(&values)?,
            listen_origin: values.0.get("listen").map(|value| value.origin.clone()).unwrap_or_default(),
            access,
            surroundings,
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

/// Every key that has a value, and the tokens; a secret is only said to be there.
fn settings(values: &BTreeMap<&'static str, Value>, environment: &BTreeMap<String, String>) -> Vec<Setting> {
    let secret = |name: &str| SECRETS.contains(&name);
    let keys = values.iter().map(|(name, value)| Setting {
        name,
        value: if secret(name) { "(set)".to_owned() } else { value.text.clone() },
        origin: value.origin.clone(),
    });
    let tokens = [("app_token", APP_TOKEN), ("admin_token", ADMIN_TOKEN)].into_iter().filter_map(|(name, variable)| {
        let origin = [variable.to_owned(), format!("{variable}_FILE")];
        let origin = origin.into_iter().find(|variable| environment.contains_key(variable))?;
        Some(Setting { name, value: "(set)".to_owned(), origin })
    });
    keys.chain(tokens).collect()
}

/// Reads the keys; tells the tier templates.
fn read_file(named: Option<&Path>, values: &mut BTreeMap<&'static str, Value>) -> Result<Templates, ConfigError> {
    let path = named.unwrap_or(Path::new(FILE));
    let origin = path.display().to_string();
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => return Ok(tiers::built_in()),
        other => other.map_err(|error| ConfigError::new(&origin, error))?,
    };
    let table: toml::Table = text.parse().map_err(|error| ConfigError::new(&origin, error))?;
    let mut templates = tiers::built_in();
    for (name, value) in table {
        if let ("tiers", toml::Value::Table(tiers)) = (name.as_str(), &value) {
            templates.extend(tiers::parse(tiers).map_err(|fault| ConfigError::new(&origin, fault))?);
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            let hint = nearest::hint(&name, KEYS.iter().map(|key| key.name).chain(["tiers"]));
            return Err(ConfigError::new(&origin, format!("unknown key {name:?}{hint}")));
        };
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Boolean(flag) => flag.to_string(),
            toml::Value::Integer(number) => number.to_string(),
            other => {
                return Err(ConfigError::new(
                    &origin,
                    format!("{name}: a text, a whole number or true/false, got a {}", other.type_str()),
                ));
            }
        };
        values.insert(key.name, Value { text, origin: origin.clone() });
    }
    Ok(templates)
}

fn read_environment(
    environment: &BTreeMap<String, String>,
    values: &mut BTreeMap<&'static str, Value>,
) -> Result<(), ConfigError> {
    for (variable, text) in environment {
        let Some(suffix) = variable.strip_prefix(PREFIX) else { continue };
        // Kubernetes describes a service of our name in every pod beside it.
        let of_kubernetes = suffix.starts_with("SERVICE_") || suffix == "PORT" || suffix.starts_with("PORT_");
        let of_tokens = [APP_TOKEN, ADMIN_TOKEN].iter().any(|name| variable.trim_end_matches("_FILE") == *name);
        if of_kubernetes || of_tokens {
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| key.name == suffix.to_ascii_lowercase()) else {
            let known: Vec<String> =
                KEYS.iter().map(|key| format!("{PREFIX}{}", key.name.to_ascii_uppercase())).collect();
            let hint = nearest::hint(variable, known.iter().map(String::as_str));
            return Err(ConfigError::new(variable, format!("unknown variable{hint}")));
        };
        values.insert(key.name, Value { text: text.clone(), origin: variable.clone() });
    }
    let also = || KEYS.iter().filter_map(|key| key.also);
    for variable in environment.keys().filter(|variable| variable.starts_with(ALERT_PREFIX)) {
        if !also().any(|known| known == variable) {
            return Err(ConfigError::new(variable, format!("unknown variable{}", nearest::hint(variable, also()))));
        }
    }
    for key in KEYS {
        if let Some((variable, text)) = key.also.and_then(|name| environment.get(name).map(|text| (name, text))) {
            values.insert(key.name, Value { text: text.clone(), origin: variable.to_owned() });
        }
    }
    Ok(())
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

/// The variable's value, or the content of the file that `VARIABLE_FILE` names.
fn secret(environment: &BTreeMap<String, String>, variable: &str) -> Result<Option<String>, ConfigError> {
    let file = format!("{variable}_FILE");
    let text = match (environment.get(variable), environment.get(&file)) {
        (Some(_), Some(_)) => return Err(ConfigError::new(variable, format!("set it or {file}, not both"))),
        (Some(text), None) => text.clone(),
        (None, Some(path)) => {
            fs::read_to_string(path).map_err(|error| ConfigError::new(file, format!("{path}: {error}")))?
        }
        (None, None) => return Ok(None),
    };
    if text.trim().is_empty() {
        return Err(ConfigError::new(variable, "empty; leave it unset, or give a token"));
    }
    Ok(Some(text))
}

/// One token a line: the token alone, or `NAME TOKEN` and the tenants that it may charge, all where there are none.
fn app_tokens(environment: &BTreeMap<String, String>) -> Result<Vec<Token>, ConfigError> {
    let text = secret(environment, APP_TOKEN)?.unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let (first, second) = (words.next().unwrap_or_default(), words.next());
            let Some(secret) = second else { return Ok(Token::new("app".to_owned(), first, Vec::new())) };
            let tenants = words
                .map(|tenant| {
                    TenantId::parse(tenant).map_err(|fault| ConfigError::new(APP_TOKEN, format!("{first}: {fault}")))
                })
                .collect::<Result<_, _>>()?;
            Ok(Token::new(first.to_owned(), secret, tenants))
        })
        .collect()
}

#[cfg(test)]
mod tests;
