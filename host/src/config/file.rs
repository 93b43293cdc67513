//! `tollgate.toml`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::keys::{KEYS, Origin, Values};
use super::{ConfigError, FILE};
use crate::nearest;
use crate::tiers::{self, Templates};

/// The one table among the keys.
const TIERS: &str = "tiers";

/// Reads the keys; tells the tier templates.
pub(super) fn read(named: Option<&Path>, values: &mut Values) -> Result<Templates, ConfigError> {
    let path = named.unwrap_or(Path::new(FILE));
    let origin = path.display().to_string();
    let fault = |fault: String| ConfigError::new(&origin, fault);
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => return Ok(tiers::built_in()),
        other => other.map_err(|error| fault(error.to_string()))?,
    };
    let table: toml::Table = text.parse().map_err(|error| fault(unreadable(&text, &error)))?;
    let mut templates = tiers::built_in();
    for (name, value) in table {
        if name == TIERS {
            let toml::Value::Table(tiers) = value else {
                let got = value.type_str();
                return Err(fault(format!("{TIERS}: a table for each tier, such as [{TIERS}.pro], and no {got}")));
            };
            templates.extend(tiers::parse(&tiers).map_err(fault)?);
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            let hint = nearest::hint(&name, KEYS.iter().map(|key| key.name).chain([TIERS]));
            return Err(fault(format!("unknown key {name:?}{hint}")));
        };
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Boolean(flag) => flag.to_string(),
            toml::Value::Integer(number) => number.to_string(),
            // A float is seldom the amount that was written.
            toml::Value::Float(amount) if name.ends_with("_usd") => {
                return Err(fault(format!("{name}: an amount is a text, such as \"1.50\", got the number {amount}")));
            }
            other => {
                let got = other.type_str();
                return Err(fault(format!("{name}: a text, a whole number or true/false, got a {got}")));
            }
        };
        values.put(key.name, text, Origin::File(origin.clone()));
    }
    Ok(templates)
}

/// Where and why, without the line itself, which may hold a secret.
fn unreadable(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    format!("line {}: {}", before.matches('\n').count() + 1, error.message())
}
