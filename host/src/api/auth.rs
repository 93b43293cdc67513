//! Who may call: tokens, and the rules for a gate without tokens.
//!
//! Without tokens the gate serves loopback and Unix sockets only. On loopback it wants a loopback `Host` (a page
//! that rebinds its own name to 127.0.0.1 has another) and `content-type: application/json` (which a page of
//! another origin can only send after a preflight that nobody answers).

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::ApiError;
use super::{App, trace};
use crate::quota::TenantId;
use crate::store::audit::Change;

/// A token, as its digest: the text is not kept.
#[derive(Clone)]
pub struct Token {
    name: String,
    digest: [u8; 32],
    /// Empty: any tenant.
    tenants: Vec<TenantId>,
}

impl Token {
    /// `name` is for people; `tenants` is whom it may charge, all where empty.
    pub fn new(name: String, secret: &str, tenants: Vec<TenantId>) -> Self {
        Self { name, digest: Sha256::digest(secret).into(), tenants }
    }

    /// For people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whom it may charge; all where empty.
    pub fn tenants(&self) -> &[TenantId] {
        &self.tenants
    }

    fn is(&self, secret: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(secret).into();
        self.digest.ct_eq(&digest).into()
    }
}

/// Where callers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A loopback address: everybody on this machine, and every page in its browsers.
    Loopback,
    /// A Unix socket: who may open the file.
    Unix,
    /// Any other address.
    Network,
}

/// Who may call what.
#[derive(Clone)]
pub struct Access {
    /// For the application's routes.
    pub app: Vec<Token>,
    /// For the admin's routes.
    pub admin: Option<Token>,
    /// Where callers come from.
    pub transport: Transport,
}

/// A caller of an application route.
pub struct AppCaller {
    token: Option<Token>,
}

impl AppCaller {
    /// # Errors
    /// 403: the caller's token is bound to other tenants.
    pub fn may_charge(&self, tenant: &TenantId) -> Result<(), ApiError> {
        match &self.token {
            Some(token) if !token.tenants.is_empty() && !token.tenants.contains(tenant) => Err(ApiError::forbidden(
                format!("the token {:?} is not for the tenant {:?}", token.name, tenant.as_str()),
            )),
            _ => Ok(()),
        }
    }
}

/// A caller of an admin route.
pub struct AdminCaller {
    /// For the audit table.
    pub name: &'static str,
}

impl FromRequestParts<Arc<App>> for AppCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        trace::learn_route(parts);
        let access = &app.access;
        if access.app.is_empty() {
            return access.without_token(parts).map(|()| Self { token: None });
        }
        let secret = bearer(&parts.headers)?;
        let token = access.app.iter().find(|token| token.is(secret));
        let token = token.ok_or_else(|| ApiError::unauthorized("unknown app token"))?;
        Ok(Self { token: Some(token.clone()) })
    }
}

impl FromRequestParts<Arc<App>> for AdminCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        trace::learn_route(parts);
        let access = &app.access;
        match &access.admin {
            Some(token) if token.is(bearer(&parts.headers)?) => Ok(Self { name: "http:admin" }),
            Some(_) => Err(ApiError::unauthorized("not the admin token")),
            // Whoever guards the application's routes does not mean to leave the quotas open.
            None if !access.app.is_empty() => {
                Err(ApiError::forbidden("admin routes are off: set TOLLGATE_ADMIN_TOKEN or TOLLGATE_ADMIN_TOKEN_FILE"))
            }
            None => {
                let name = if access.transport == Transport::Unix { "http:unix" } else { "http:loopback" };
                access.without_token(parts).map(|()| Self { name })
            }
        }
    }
}

impl AdminCaller {
    /// A change that this caller makes.
    pub fn change<'a>(&self, reason: Option<&'a str>, at: DateTime<Utc>) -> Change<'a> {
        Change { actor: self.name, reason, at }
    }
}

impl Access {
    fn without_token(&self, parts: &Parts) -> Result<(), ApiError> {
        if self.transport != Transport::Loopback {
            return Ok(());
        }
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        // HTTP/2 has no Host header but an authority.
        let host = host.or_else(|| parts.uri.authority().map(axum::http::uri::Authority::as_str)).unwrap_or_default();
        if !is_loopback_host(host) {
            return Err(ApiError::forbidden(format!(
                "Host: a gate without tokens answers to localhost only, got {host:?}"
            )));
        }
        let writes = parts.method == Method::POST || parts.method == Method::PUT;
        let bodyless = parts.headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0")
            && !parts.headers.contains_key(header::TRANSFER_ENCODING)
            && !parts.headers.contains_key(header::ORIGIN);
        if writes && !bodyless && !is_json(&parts.headers) {
            return Err(ApiError::invalid("content-type", "application/json"));
        }
        Ok(())
    }
}

fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default();
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, secret) = value.and_then(|value| value.split_once(' ')).unwrap_or_default();
    if scheme.eq_ignore_ascii_case("bearer") && !secret.trim().is_empty() {
        return Ok(secret.trim());
    }
    Err(ApiError::unauthorized("Authorization: Bearer and a token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_loopback_hosts() {
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST"] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8080", "10.0.0.1", "[fe80::1]"]
        {
            assert!(!is_loopback_host(host), "{host}");
        }
    }
}
