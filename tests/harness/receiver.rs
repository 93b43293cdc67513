//! A provider on this machine that speaks HTTP and misbehaves as it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::until;

/// What it does with a request that it has read.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Answers with a status, headers and a body.
    Answer(u16, &'static str, &'static str),
    /// Says nothing, and keeps the connection.
    Hang,
    /// Resets the connection.
    Reset,
}

#[derive(Default)]
struct Seen {
    bodies: Vec<Value>,
    behaviours: VecDeque<Behaviour>,
}

/// Takes requests; without a behaviour it answers 200.
#[derive(Clone)]
pub struct Receiver {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let receiver = Self { address: listener.local_addr().expect("its address"), seen: Arc::default() };
        let serving = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        receiver
    }

    /// An address on it; the path holds what must never be shown.
    pub fn url(&self) -> String {
        format!("http://{}/services/{}", self.address, super::CANARY)
    }

    /// What it does with the next requests, one each.
    pub fn then(&self, behaviours: &[Behaviour]) {
        self.seen.lock().expect("no panic").behaviours.extend(behaviours.iter().cloned());
    }

    /// The bodies of all requests so far, whatever was done with them.
    pub fn bodies(&self) -> Vec<Value> {
        self.seen.lock().expect("no panic").bodies.clone()
    }

    /// Waits until so many requests have come.
    pub async fn has(&self, requests: usize) -> Vec<Value> {
        until(&format!("{requests} requests, {} have come", self.bodies().len()), || async {
            self.bodies().len() >= requests
        })
        .await;
        self.bodies()
    }

    async fn serve(self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        while let Some(body) = read_request(&mut stream).await {
            let behaviour = {
                let mut seen = self.seen.lock().expect("no panic");
                seen.bodies.push(body);
                seen.behaviours.pop_front().unwrap_or(Behaviour::Answer(200, "", "ok"))
            };
            match behaviour {
                Behaviour::Answer(status, headers, body) => {
                    let length = body.len();
                    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
                    if stream.write_all(head.as_bytes()).await.is_err() {
                        return;
                    }
                }
                Behaviour::Hang => std::future::pending().await,
                Behaviour::Reset => {
                    stream.get_ref().set_zero_linger().expect("a socket");
                    return;
                }
            }
        }
    }
}

/// The body of the next request, which must be JSON; `None` at the end of the connection.
async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(serde_json::from_slice(&body).expect("a body of JSON"))
}

/// What people see of a block of rich text, with bold as `*bold*`.
pub fn slack_shows(block: &Value) -> String {
    assert_eq!((&block["type"], &block["elements"][0]["type"]), (&"rich_text".into(), &"rich_text_section".into()));
    let shown = |element: &Value| {
        if element["type"] == "emoji" {
            return format!(":{}:", element["name"].as_str().expect("a name"));
        }
        let text = element["text"].as_str().expect("an element of text");
        let (line, text) = text.strip_prefix('\n').map_or(("", text), |text| ("\n", text));
        if element["style"]["bold"] == true { format!("{line}*{text}*") } else { format!("{line}{text}") }
    };
    block["elements"][0]["elements"].as_array().expect("elements").iter().map(shown).collect()
}
