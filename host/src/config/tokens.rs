//! Tokens come from the environment or files only, never from `tollgate.toml` or a flag. Where one is set, a gate that finds
//! none in it does not start: without tokens it would serve everybody.

use std::collections::BTreeMap;
use std::fs;

use super::ConfigError;
use super::keys::Setting;
use crate::api::auth::Token;
use crate::quota::TenantId;

pub(super) const APP_TOKEN: &str = "TOLLGATE_APP_TOKEN";
const APP_TOKEN_FILE: &str = "TOLLGATE_APP_TOKEN_FILE";
const ADMIN_TOKEN: &str = "TOLLGATE_ADMIN_TOKEN";
const ADMIN_TOKEN_FILE: &str = "TOLLGATE_ADMIN_TOKEN_FILE";

/// All of them.
pub(super) const VARIABLES: [&str; 4] = [APP_TOKEN, APP_TOKEN_FILE, ADMIN_TOKEN, ADMIN_TOKEN_FILE];

/// One token a line: the token alone, or `NAME TOKEN` and the tenants that it may charge, all where there are none.
pub(super) fn app(environment: &BTreeMap<String, String>) -> Result<Vec<Token>, ConfigError> {
    let Some(Said { origin, text }) = said(environment, APP_TOKEN, APP_TOKEN_FILE)? else { return Ok(Vec::new()) };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let tokens = lines.map(|line| app_token(line, origin)).collect::<Result<Vec<_>, _>>()?;
    if tokens.is_empty() {
        return Err(ConfigError::new(origin, "no token in it, only comments; give one, or leave it unset"));
    }
    Ok(tokens)
}

fn app_token(line: &str, origin: &str) -> Result<Token, ConfigError> {
    let mut words = line.split_whitespace();
    let (first, second) = (words.next().unwrap_or_default(), words.next());
    let Some(secret) = second else { return Ok(Token::new("app".to_owned(), first, Vec::new())) };
    let tenants = words
        .map(|tenant| TenantId::parse(tenant).map_err(|fault| ConfigError::new(origin, format!("{first}: {fault}"))))
        .collect::<Result<_, _>>()?;
    Ok(Token::new(first.to_owned(), secret, tenants))
}

/// The admin's, which is all that its variable or file holds.
pub(super) fn admin(environment: &BTreeMap<String, String>) -> Result<Option<Token>, ConfigError> {
    let Some(Said { origin, text }) = said(environment, ADMIN_TOKEN, ADMIN_TOKEN_FILE)? else { return Ok(None) };
    let token = text.trim();
    // No header has a line break, so nobody could ever be let in.
    let lines = token.lines().count();
    if lines > 1 {
        let fault = format!("one token and nothing else, no comment either, got {lines} lines");
        return Err(ConfigError::new(origin, fault));
    }
    Ok(Some(Token::new("admin".to_owned(), token, Vec::new())))
}

/// Those that are set, for people, by the variable that says so.
pub(super) fn settings(environment: &BTreeMap<String, String>) -> impl Iterator<Item = Setting> {
    let all = [("app_token", [APP_TOKEN, APP_TOKEN_FILE]), ("admin_token", [ADMIN_TOKEN, ADMIN_TOKEN_FILE])];
    all.into_iter().filter_map(|(name, variables)| {
        let origin = variables.into_iter().find(|variable| environment.contains_key(*variable))?;
        Some(Setting { name, value: "(set)".to_owned(), origin: origin.to_owned() })
    })
}

/// What is said of a token, and by which variable.
struct Said {
    origin: &'static str,
    text: String,
}

/// The variable's value, or the content of the file that `file` names.
fn said(
    environment: &BTreeMap<String, String>,
    variable: &'static str,
    file: &'static str,
) -> Result<Option<Said>, ConfigError> {
    let (origin, text) = match (environment.get(variable), environment.get(file)) {
        (Some(_), Some(_)) => return Err(ConfigError::new(variable, format!("set it or {file}, not both"))),
        (Some(text), None) => (variable, text.clone()),
        (None, Some(path)) => {
            (file, fs::read_to_string(path).map_err(|error| ConfigError::new(file, format!("{path}: {error}")))?)
        }
        (None, None) => return Ok(None),
    };
    if text.trim().is_empty() {
        return Err(ConfigError::new(origin, "empty; leave it unset, or give a token"));
    }
    Ok(Some(Said { origin, text }))
}
