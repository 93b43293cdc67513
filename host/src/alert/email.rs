//! Mail by SMTP, a connection for each message: STARTTLS unless something else is asked for, and a login where one is set.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use lettre::address::Envelope;
pub use lettre::message::Mailbox;
use lettre::message::MultiPart;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{CertificateStore, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};

use super::webhook::deepest;
use super::{Notice, Secret, SendError};

/// How the connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Plain at first, then TLS or nothing.
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// Plain: for a relay on this machine.
    None,
}

impl Security {
    /// The port where a server that speaks so usually listens.
    pub const fn port(self) -> u16 {
        match self {
            Self::StartTls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

impl FromStr for Security {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "starttls" => Ok(Self::StartTls),
            "tls" => Ok(Self::Tls),
            "none" => Ok(Self::None),
            other => Err(format!("one of starttls, tls, none, got {other:?}")),
        }
    }
}

/// The server, and from whom to whom.
#[derive(Clone, Debug)]
pub struct EmailSettings {
    /// The server's name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub security: Security,
    /// User and password.
    pub login: Option<(String, Secret)>,
    /// Who it is from.
    pub from: Mailbox,
    /// Who gets it.
    pub to: Vec<Mailbox>,
}

/// Reads an address, with or without a name.
///
/// # Errors
/// A sentence that completes "`alert_email_to`: …".
pub fn mailbox(text: &str) -> Result<Mailbox, String> {
    text.trim().parse().map_err(|_| format!("an address such as ops@example.com, got {text:?}"))
}

#[derive(Debug)]
pub(super) struct Email {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
    timeout: Duration,
}

impl Email {
    pub(super) fn new(settings: EmailSettings, timeout: Duration) -> Result<Self, String> {
        let parameters = || {
            TlsParameters::builder(settings.host.clone())
                .certificate_store(CertificateStore::Default)
                .build_rustls()
                .map_err(|error| format!("cannot set up TLS for mail: {}", deepest(&error)))
        };
        let tls = match settings.security {
            Security::StartTls => Tls::Required(parameters()?),
            Security::Tls => Tls::Wrapper(parameters()?),
            Security::None => Tls::None,
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&settings.host)
            .port(settings.port)
            .tls(tls)
            .timeout(Some(timeout));
        if let Some((user, password)) = settings.login {
            builder = builder.credentials(Credentials::new(user, password.text().to_owned()));
        }
        Ok(Self { transport: builder.build(), from: settings.from, to: settings.to, timeout })
    }

    pub(super) async fn tell(&self, notice: &Notice) -> Result<(), SendError> {
        let message =
            self.message(notice).map_err(|error| SendError::new(format!("no mail can be made of it: {error}")))?;
        let sent = tokio::time::timeout(self.timeout, self.send(&message)).await;
        match sent {
            Err(_) => Err(SendError::new(format!("no answer within {:?}", self.timeout))),
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(SendError::new(reason(&error))),
        }
    }

    /// To all of them at once; where one is refused, to each by itself, so that the others hear of it. It is sent if one of
    /// them took it.
    async fn send(&self, message: &Message) -> Result<(), Error> {
        let (envelope, mail) = (message.envelope(), message.formatted());
        match self.transport.send_raw(envelope, &mail).await {
            Err(error) if may_be_a_recipients(&error) && envelope.to().len() > 1 => {}
            sent => return sent.map(drop),
        }
        let mut refusals = Vec::new();
        for to in envelope.to() {
            let Ok(alone) = Envelope::new(envelope.from().cloned(), vec![to.clone()]) else { continue };
            match self.transport.send_raw(&alone, &mail).await {
                Err(error) if may_be_a_recipients(&error) => refusals.push((to, error)),
                sent => drop(sent?),
            }
        }
        if refusals.len() == envelope.to().len()
            && let Some((_, error)) = refusals.pop()
        {
            return Err(error);
        }
        for (to, error) in refusals {
            tracing::warn!(recipient = %to, reason = reason(&error), "Alert mail refused for one recipient");
        }
        Ok(())
    }

    fn message(&self, notice: &Notice) -> Result<Message, lettre::error::Error> {
        let domain = self.from.email.domain();
        let mut builder = Message::builder()
            .from(self.from.clone())
            .subject(one_line(&notice.title()))
            .date(SystemTime::from(notice.at))
            // The same for each attempt, so that a mailbox shows what came twice once.
            .message_id(Some(format!("<{}@{domain}>", notice.id)));
        for to in &self.to {
            builder = builder.to(to.clone());
        }
        builder.multipart(MultiPart::alternative_plain_html(notice.text(), html(notice)))
    }
}

/// Whether it may concern one recipient alone: refused for good, or a mailbox that is busy, unknown just now, or full.
fn may_be_a_recipients(error: &Error) -> bool {
    error.is_permanent() || error.status().is_some_and(|code| ["450", "452"].contains(&code.to_string().as_str()))
}

/// What went wrong, without the server's words: they could repeat what they were sent.
fn reason(error: &Error) -> String {
    if let Some(code) = error.status() {
        let meaning = match code.to_string().as_str() {
            "530" | "534" | "535" | "538" => ": it does not accept this login",
            "550" | "551" | "553" | "554" => ": it does not accept this sender or recipient",
            _ => "",
        };
        return format!("the mail server answered {code}{meaning}");
    }
    if error.is_timeout() {
        return "the mail server did not answer in time".to_owned();
    }
    format!("no mail over this connection: {}", deepest(error))
}

/// Line breaks in a name are no headers.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn html(notice: &Notice) -> String {
    let mut html = format!("<p><strong>{}</strong></p>\n<table>\n", escape(&notice.title()));
    for (label, text) in notice.lines() {
        let _ = writeln!(html, "<tr><th align=\"left\">{}</th><td>{}</td></tr>", escape(&label), escape(&text));
    }
    html.push_str("</table>\n");
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
