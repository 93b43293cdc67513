//! The environment: `TOLLGATE_…`, the names that the replaced system had, and `DATABASE_URL`.
//!
//! A variable that is ours by its name is never passed over: one that is unknown or unreadable is an error, since what it
//! was to switch would not be switched. Only an empty one counts as not set, as compose files leave it.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::ConfigError;
use super::keys::{KEYS, Origin, Values};
use super::tokens;
use crate::nearest;

const PREFIX: &str = "TOLLGATE_";
/// What the replaced system's variables of alerts begin with.
const ALERT_PREFIX: &str = "COST_ALERT_";
/// And its switches of enforcement. Others may have variables that begin so, and end otherwise.
const ENFORCE_PREFIX: &str = "ENFORCE_";
const ENFORCE_SUFFIXES: [&str; 2] = ["_QUOTA", "_QUOTAS"];

/// The variables that are ours, as texts.
pub(super) fn ours(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let ours = |name: &String| {
        [PREFIX, ALERT_PREFIX, ENFORCE_PREFIX].iter().any(|prefix| name.starts_with(prefix))
            || also().any(|known| known == name)
    };
    let named = variables.map(|(name, value)| (name.to_string_lossy().into_owned(), value));
    named
        .filter(|(name, _)| ours(name))
        .map(|(name, value)| match value.into_string() {
            Ok(text) => Ok((name, text)),
            // Not the value: it may be a token.
            Err(_) => Err(ConfigError::new(name, "is not UTF-8; give it a text, or leave it unset")),
        })
        .collect()
}

/// Reads the keys.
pub(super) fn read(environment: &BTreeMap<String, String>, values: &mut Values) -> Result<(), ConfigError> {
    for (variable, text) in environment {
        if let Some(suffix) = variable.strip_prefix(PREFIX) {
            // Kubernetes describes a service of our name in every pod beside it.
            let of_kubernetes = suffix.starts_with("SERVICE_") || suffix == "PORT" || suffix.starts_with("PORT_");
            if of_kubernetes || tokens::VARIABLES.contains(&variable.as_str()) {
                continue;
            }
            let Some(key) = KEYS.iter().find(|key| key.name == suffix.to_ascii_lowercase()) else {
                let known: Vec<String> =
                    KEYS.iter().map(|key| format!("{PREFIX}{}", key.name.to_ascii_uppercase())).collect();
                return Err(unknown(variable, known.iter().map(String::as_str).chain(tokens::VARIABLES)));
            };
            put(values, key.name, variable, text);
        }
        let of_enforcement =
            variable.starts_with(ENFORCE_PREFIX) && ENFORCE_SUFFIXES.iter().any(|suffix| variable.ends_with(suffix));
        if (of_enforcement || variable.starts_with(ALERT_PREFIX)) && !also().any(|known| known == variable) {
            return Err(unknown(variable, also()));
        }
    }
    // Over `TOLLGATE_…`, whatever the alphabet says.
    for key in KEYS {
        if let Some((variable, text)) = key.also.and_then(|name| environment.get(name).map(|text| (name, text))) {
            put(values, key.name, variable, text);
        }
    }
    Ok(())
}

fn put(values: &mut Values, key: &'static str, variable: &str, text: &str) {
    if !text.trim().is_empty() {
        values.put(key, text.to_owned(), Origin::Variable(variable.to_owned()));
    }
}

fn also() -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter_map(|key| key.also)
}

fn unknown<'a>(variable: &str, known: impl Iterator<Item = &'a str>) -> ConfigError {
    ConfigError::new(variable, format!("unknown variable{}", nearest::hint(variable, known)))
}
