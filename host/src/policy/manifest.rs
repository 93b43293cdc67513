//! `NAME.toml` beside a policy: the operator's settings and limits.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::bindings::Description;
use super::engine::PolicyError;
use super::limits::{LARGEST_MEMORY_MIB, Limits, Wasi};

/// What happens to a request whose policy failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// 503 `policy_failed`.
    #[default]
    Deny,
    /// The standard policy decides instead.
    Standard,
    /// It is allowed.
    Allow,
}

/// What `NAME.toml` says; all of it has defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    #[serde(default, deserialize_with = "settings")]
    settings: BTreeMap<String, String>,
    /// What happens to a request whose policy failed.
    #[serde(default)]
    pub on_error: OnError,
    timeout_ms: Option<u64>,
    memory_mib: Option<u32>,
    max_size_mib: Option<u32>,
    #[serde(default)]
    wasi: Wasi,
}

impl Manifest {
    /// Reads the file's text.
    ///
    /// # Errors
    /// [`PolicyError::Load`] that names the key and what would be right.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        toml::from_str(text).map_err(|error| PolicyError::Load(error.to_string()))
    }

    /// The limits it asks for, over the defaults.
    ///
    /// # Errors
    /// [`PolicyError::Load`] that names the key and its range.
    pub fn limits(&self) -> Result<Limits, PolicyError> {
        let defaults = Limits::default();
        let within = |key: &str, value: u64, most: u64| {
            if (1..=most).contains(&value) {
                Ok(())
            } else {
                Err(PolicyError::Load(format!("{key}: 1 to {most}, got {value}")))
            }
        };
        let timeout = self.timeout_ms.map_or(defaults.timeout, Duration::from_millis);
        let memory_mib = self.memory_mib.unwrap_or(defaults.memory_mib);
        let max_size_mib = self.max_size_mib.unwrap_or(defaults.max_size_mib);
        within("timeout_ms", u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX), 1_000)?;
        within("memory_mib", memory_mib.into(), LARGEST_MEMORY_MIB.into())?;
        within("max_size_mib", max_size_mib.into(), 64)?;
        Ok(Limits { timeout, memory_mib, max_size_mib, wasi: self.wasi })
    }

    /// The settings that fixtures run under, where a case does not say: the defaults, whatever the operator has set. What
    /// has no default is taken from `served`.
    pub fn for_fixtures(description: &Description, served: &[(String, String)]) -> Vec<(String, String)> {
        let default =
            |spec: &super::bindings::SettingSpec| spec.default_value.clone().map(|value| (spec.name.clone(), value));
        let defaults: Vec<(String, String)> = description.settings.iter().filter_map(default).collect();
        let without_default = served.iter().filter(|(name, _)| !defaults.iter().any(|(other, _)| other == name));
        without_default.cloned().chain(defaults.clone()).collect()
    }

    /// Every setting that the policy knows, in its order: the operator's value or the default.
    ///
    /// # Errors
    /// [`PolicyError::Load`] for a setting that the policy does not know, or a required one that is missing.
    pub fn resolve(&self, description: &Description) -> Result<Vec<(String, String)>, PolicyError> {
        let known = description.settings.iter().map(|spec| spec.name.as_str());
        if let Some(fault) = unknown(&self.settings, &description.name, known) {
            return Err(PolicyError::Load(format!("[settings] {fault}")));
        }
        description
            .settings
            .iter()
            .map(|spec| {
                let value = self.settings.get(&spec.name).or(spec.default_value.as_ref()).ok_or_else(|| {
                    PolicyError::Load(format!("[settings] {}: required, and not set ({})", spec.name, spec.summary))
                })?;
                Ok((spec.name.clone(), value.clone()))
            })
            .collect()
    }
}

/// What is wrong with the first of these settings that `policy` does not know.
pub(super) fn unknown<'a>(
    settings: &BTreeMap<String, String>,
    policy: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Option<String> {
    let unknown = settings.keys().find(|name| !known.clone().any(|known| known == *name))?;
    Some(format!("{unknown}: {policy} knows no such setting{}", crate::nearest::hint(unknown, known)))
}

/// Settings are text for the guest; whole numbers and booleans may be written as such.
pub(super) fn settings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    BTreeMap::<String, toml::Value>::deserialize(deserializer)?
        .into_iter()
        .map(|(name, value)| match value {
            toml::Value::String(text) => Ok((name, text)),
            toml::Value::Integer(number) => Ok((name, number.to_string())),
            toml::Value::Boolean(flag) => Ok((name, flag.to_string())),
            other => Err(de::Error::custom(format!(
                "{name}: a text, a whole number or true/false, got a {}; write decimals as text (\"0.50\")",
                other.type_str()
            ))),
        })
        .collect()
}
