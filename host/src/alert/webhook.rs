//! Posting JSON to an address that somebody configured: https, to hosts on a list, never redirected, and to private
//! addresses only where that is allowed, so that a setting cannot be turned against the network that the gate is in.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url, header, redirect};
use rustls::ClientConfig;
use serde_json::Value;

use super::SendError;

/// The longest pause that a provider may ask for.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// Which addresses webhooks may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Names of hosts; `*` is any.
    pub hosts: Vec<String>,
    /// Loopback, private and link-local addresses too, and plain http to this machine.
    pub private: bool,
}

impl Reach {
    /// The providers' own.
    pub const HOSTS: &str = "hooks.slack.com,hooks.slack-gov.com,events.pagerduty.com,events.eu.pagerduty.com";
}

impl Default for Reach {
    fn default() -> Self {
        Self { hosts: Self::HOSTS.split(',').map(str::to_owned).collect(), private: false }
    }
}

/// An address that may be posted to. It is a secret: whoever has it may post.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook(Url);

impl Webhook {
    /// Reads an address and checks it.
    ///
    /// # Errors
    /// A sentence that completes "`alert_slack_webhook_url`: …" and repeats no more of the address than its host.
    pub fn parse(text: &str, reach: &Reach) -> Result<Self, String> {
        let url =
            Url::parse(text.trim()).map_err(|_| "an address such as https://hooks.slack.com/services/…".to_owned())?;
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        let is_this_machine = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        match url.scheme() {
            "https" => {}
            "http" if is_this_machine && reach.private => {}
            _ => return Err("https, so that nobody on the way reads it".to_owned()),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("an address without user and password".to_owned());
        }
        if !reach.hosts.iter().any(|allowed| *allowed == "*" || *allowed == host) {
            return Err(format!("the host {host} is not in alert_allowed_hosts ({})", reach.hosts.join(", ")));
        }
        if !reach.private && (host == "localhost" || address.is_some_and(|address| !is_public(address))) {
            return Err(format!("{host} is a private address, and alert_allow_private_addresses is false"));
        }
        Ok(Self(url))
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}/…", self.0.host_str().unwrap_or_default())
    }
}

/// Posts JSON.
#[derive(Debug)]
pub(super) struct Poster {
    client: Client,
    timeout: Duration,
}

impl Poster {
    pub(super) fn new(reach: &Reach, timeout: Duration) -> Result<Self, String> {
        let builder = Client::builder()
            .tls_backend_preconfigured(tls()?)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(timeout)
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")));
        let builder = if reach.private { builder } else { builder.dns_resolver(PublicOnly) };
        let client = builder.build().map_err(|error| format!("cannot set up https: {error}"))?;
        Ok(Self { client, timeout })
    }

    /// Posts; anything but a 2xx is an error.
    pub(super) async fn post(&self, to: &Webhook, body: &Value) -> Result<(), SendError> {
        let sent = self.client.post(to.0.clone()).json(body).send().await;
        let answer = sent.map_err(|error| SendError::new(self.reason(&error)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let pause =
            answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let retry_after = pause.map(|seconds| Duration::from_secs(seconds).min(LONGEST_PAUSE));
        // Not what it said: a body could hold anything, the address included.
        let reason = match status.as_u16() {
            code @ 300..=399 => format!("answered {code}, a redirect, which is not followed"),
            code @ (401 | 403 | 404 | 410) => format!("answered {code}: the address or key is not valid there"),
            code => format!("answered {code}"),
        };
        Err(SendError { reason, retry_after })
    }

    /// The cause without the address, which every error of the client has in it.
    fn reason(&self, error: &reqwest::Error) -> String {
        if error.is_timeout() {
            return format!("no answer within {:?}", self.timeout);
        }
        let deepest = deepest(error);
        if error.is_connect() {
            format!("cannot connect: {deepest}")
        } else {
            format!("the connection broke: {deepest}")
        }
    }
}

/// The innermost cause, which knows of sockets and certificates and of no address.
pub(super) fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if std::ptr::addr_eq(cause, error) { "no cause is known".to_owned() } else { cause.to_string() }
}

fn tls() -> Result<ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| format!("cannot set up TLS: {error}"))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Names that lead to private addresses lead nowhere, whatever the name server says today.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err("the name leads to a private address, and alert_allow_private_addresses is false".into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// An address that can be somebody else's in the internet.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let is_special = a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (18..20).contains(&b));
            !(is_special
                || v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_documentation())
        }
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    let [first, second, ..] = v6.segments();
    // Outside 2000::/3 nothing is routed; translators (64:ff9b::, 2002::, 2001::) lead to v4 addresses inside.
    let is_global = first & 0xe000 == 0x2000;
    let is_translated = first == 0x2002 || (first == 0x2001 && (second == 0 || second == 0x0db8));
    is_global && !is_translated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_https_on_the_list_and_public() {
        let reach = Reach::default();
        assert!(Webhook::parse("https://hooks.slack.com/services/T0/B0/x", &reach).is_ok());
        let any = Reach { hosts: vec!["*".to_owned()], private: false };
        let private = Reach { hosts: vec!["127.0.0.1".to_owned(), "10.0.0.1".to_owned()], private: true };
        for (text, reach, fault) in [
            ("http://hooks.slack.com/services/s3cret", &reach, "https, so that nobody"),
            ("https://evil.example/s3cret", &reach, "the host evil.example is not in alert_allowed_hosts"),
            ("https://hooks.slack.com.evil.example/s3cret", &reach, "not in alert_allowed_hosts"),
            ("https://user:s3cret@hooks.slack.com/", &reach, "without user and password"),
            ("hooks.slack.com/s3cret", &reach, "an address such as"),
            ("file:///s3cret", &any, "https"),
            ("https://127.0.0.1/s3cret", &any, "127.0.0.1 is a private address"),
            ("https://[::ffff:10.0.0.1]/s3cret", &any, "is a private address"),
            ("https://169.254.169.254/s3cret", &any, "is a private address"),
            ("https://2130706433/s3cret", &any, "127.0.0.1 is a private address"),
            ("https://localhost/s3cret", &any, "localhost is a private address"),
            ("http://10.0.0.1/s3cret", &private, "https"),
        ] {
            let error = Webhook::parse(text, reach).expect_err(text);
            assert!(error.contains(fault) && !error.contains("s3cret"), "{text}: {error}");
        }
        assert!(Webhook::parse("http://127.0.0.1:8065/hooks/x", &private).is_ok());
    }

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for address in ["1.1.1.1", "2606:4700::1111", "100.63.0.1", "172.32.0.1"] {
            assert!(is_public(address.parse().expect("an address")), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "::ffff:192.168.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
        ] {
            assert!(!is_public(address.parse().expect("an address")), "{address}");
        }
    }
}
