//! A mail server on this machine: STARTTLS with a certificate of its own, a login, and moods.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::CertifiedKey;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Scratch;

#[derive(Default)]
struct Seen {
    /// What came after DATA.
    messages: Vec<String>,
    /// Every line but those of messages, and what protected it.
    commands: Vec<String>,
    moods: VecDeque<&'static str>,
    /// Whose mail is not taken.
    refused: Option<(&'static str, &'static str)>,
}

/// Takes mail; a mood is what it answers to the next `MAIL`, and `""` that it says nothing more.
pub struct MailServer {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    folder: Scratch,
}

impl MailServer {
    pub async fn start() -> Self {
        let folder = Scratch::new();
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        folder.write("certificate.pem", cert.pem());
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key.into())
            .expect("a configuration of TLS");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = Self { address: listener.local_addr().expect("its address"), seen: Arc::default(), folder };
        let seen = server.seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, acceptor) = (seen.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let Some(plain) = converse(stream, &seen, "plain").await else { return };
                    if let Ok(protected) = acceptor.accept(plain).await {
                        converse(protected, &seen, "tls").await;
                    }
                });
            }
        });
        server
    }

    pub fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// For `SSL_CERT_FILE`: whoever trusts it trusts this server.
    pub fn certificate(&self) -> String {
        self.folder.join("certificate.pem").to_str().expect("a text").to_owned()
    }

    pub fn then(&self, moods: &[&'static str]) {
        self.seen.lock().expect("no panic").moods.extend(moods);
    }

    /// Whoever has this in his address is refused, in these words.
    pub fn refuses(&self, address: &'static str, answer: &'static str) {
        self.seen.lock().expect("no panic").refused = Some((address, answer));
    }

    pub fn messages(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").messages.clone()
    }

    pub fn commands(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").commands.clone()
    }
}

/// Speaks SMTP; gives the stream back where TLS is to begin.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: S, seen: &Mutex<Seen>, protection: &str) -> Option<S> {
    let mut stream = BufReader::new(stream);
    if protection == "plain" {
        stream.write_all(b"220 localhost ESMTP\r\n").await.ok()?;
    }
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        seen.lock().expect("no panic").commands.push(format!("{protection} {line}"));
        let word = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let mood = if word == "MAIL" { seen.lock().expect("no panic").moods.pop_front() } else { None };
        let answer = match word.as_str() {
            "EHLO" if protection == "plain" => "250-localhost\r\n250 STARTTLS".to_owned(),
            "EHLO" => "250-localhost\r\n250 AUTH PLAIN".to_owned(),
            "STARTTLS" => {
                stream.write_all(b"220 go on\r\n").await.ok()?;
                return Some(stream.into_inner());
            }
            "AUTH" => "235 it is you".to_owned(),
            "MAIL" => match mood {
                Some("") => return std::future::pending().await,
                Some(mood) => format!("{mood} {line}"),
                None => "250 fine".to_owned(),
            },
            "RCPT" => match seen.lock().expect("no panic").refused {
                Some((address, answer)) if line.contains(address) => answer.to_owned(),
                _ => "250 fine".to_owned(),
            },
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.ok()?;
                let mut message = String::new();
                while !message.ends_with("\r\n.\r\n") {
                    stream.read_line(&mut message).await.ok()?;
                }
                seen.lock().expect("no panic").messages.push(message);
                "250 taken".to_owned()
            }
            "QUIT" => "221 bye".to_owned(),
            _ => "250 fine".to_owned(),
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await.ok()?;
    }
}
