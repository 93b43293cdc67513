//! A database whose connection breaks at the n-th request: between a host and PostgreSQL, it forwards everything, counts
//! what asks for a reply, and cuts the one that is due.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// What PostgreSQL calls its socket, for port 5432.
const SOCKET: &str = ".s.PGSQL.5432";
/// The end of every reply: `ReadyForQuery`, and a byte that says whether a transaction is open.
const READY: &[u8] = b"Z\0\0\0\x05";
/// Statements that no caller asks for: the probe, the worker's, those of the decision log and of the alerts.
const NOBODYS: [&str; 6] = [
    "pg_is_in_recovery",
    "override_until <= $1",
    "window_start('hour', $1)",
    "alert_deliveries",
    "copilot_internal.decisions",
    "SELECT 1",
];
/// What looks for reservations whose time is over.
const DUE: &str = "state = 'held' AND expires_at <= $1 ORDER BY";

/// Where the connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing of the request reaches the server.
    Before,
    /// All of it does but its end, so that nothing of it counts.
    Unfinished,
    /// It is carried out, and nobody hears of it.
    ReplyLost,
    /// Nothing of the request reaches the server, and the connection stays.
    Silence,
}

#[derive(Clone, Copy, Debug, Default)]
enum Plan {
    #[default]
    Forwards,
    Armed(Cut, usize),
    Hit,
}

#[derive(Clone)]
struct Wire {
    plan: Arc<Mutex<Plan>>,
    counts_expiry: bool,
}

pub struct Tripwire {
    wire: Wire,
    /// Of the socket, whose path has to be short.
    folder: PathBuf,
}

impl Tripwire {
    /// In front of the server with this socket. `counts_expiry`: the worker's search for what has expired counts too.
    pub fn new(server: &Path, counts_expiry: bool) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("tollgate-tripwire-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let listener = UnixListener::bind(folder.join(SOCKET)).expect("a socket");
        let wire = Wire { plan: Arc::default(), counts_expiry };
        let (shared, server) = (wire.clone(), server.join(SOCKET));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&server).await.expect("a server");
                tokio::spawn(forward(shared.clone(), client, server));
            }
        });
        Self { wire, folder }
    }

    /// Where its socket lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The `nth` request from now on is cut, the first being 1.
    pub fn arm(&self, cut: Cut, nth: usize) {
        *self.wire.plan.lock().expect("no panic") = Plan::Armed(cut, nth);
    }

    /// Forwards everything again; tells whether something was cut.
    pub fn disarm(&self) -> bool {
        matches!(std::mem::take(&mut *self.wire.plan.lock().expect("no panic")), Plan::Hit)
    }
}

impl Drop for Tripwire {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Wire {
    /// Counts a request; tells how it is cut, if it is the one.
    fn is_due(&self) -> Option<Cut> {
        let mut plan = self.plan.lock().expect("no panic");
        let Plan::Armed(cut, left) = *plan else { return None };
        *plan = if left > 1 { Plan::Armed(cut, left - 1) } else { Plan::Hit };
        (left <= 1).then_some(cut)
    }

    fn is_nobodys(&self, sql: &str) -> bool {
        NOBODYS.iter().any(|part| sql.contains(part)) || (!self.counts_expiry && sql.contains(DUE))
    }
}

/// What a client has sent and its server has not got yet.
#[derive(Default)]
struct Asked {
    bytes: Vec<u8>,
    /// The first message has no type.
    begun: bool,
    /// Prepared statements that nobody asked for, by name.
    nobodys: HashMap<Vec<u8>, bool>,
    is_nobodys: bool,
}

/// Until one side ends, or a request is cut; then both sides are closed.
async fn forward(wire: Wire, mut client: UnixStream, mut server: UnixStream) {
    let (mut asks, mut answers) = (vec![0; 65_536], vec![0; 65_536]);
    let (mut asked, mut lost): (Asked, Option<Vec<u8>>) = (Asked::default(), None);
    loop {
        tokio::select! {
            read = client.read(&mut asks) => {
                let Ok(length @ 1..) = read else { return };
                asked.bytes.extend_from_slice(&asks[..length]);
                while let Some((request, end)) = asked.request(&wire) {
                    let cut = end.filter(|_| !asked.is_nobodys).and_then(|end| Some((wire.is_due()?, end)));
                    let sent = match cut {
                        Some((Cut::Before, _)) => return,
                        Some((Cut::Silence, _)) => return std::future::pending().await,
                        Some((Cut::Unfinished, end)) => &request[..end],
                        Some((Cut::ReplyLost, _)) | None => &request[..],
                    };
                    if server.write_all(sent).await.is_err() || matches!(cut, Some((Cut::Unfinished, _))) {
                        return;
                    }
                    if cut.is_some() {
                        lost = Some(Vec::new());
                    }
                }
            }
            read = server.read(&mut answers) => {
                let Ok(length @ 1..) = read else { return };
                match &mut lost {
                    None if client.write_all(&answers[..length]).await.is_err() => return,
                    None => {}
                    Some(reply) => {
                        reply.extend_from_slice(&answers[..length]);
                        if reply.len() > READY.len() && reply[..reply.len() - 1].ends_with(READY) {
                            return;
                        }
                    }
                }
            }
        }
    }
}

impl Asked {
    /// The next whole request: messages up to one that asks for a reply, and where that last one begins. A message that
    /// asks for none and is alone (the first, the last) is a request without such a place.
    fn request(&mut self, wire: &Wire) -> Option<(Vec<u8>, Option<usize>)> {
        let mut at = 0;
        loop {
            let rest = &self.bytes[at..];
            let head = usize::from(self.begun);
            let length = rest.get(head..head + 4)?;
            let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
            let message = rest.get(..head + length)?.to_vec();
            let end = at + message.len();
            if !self.begun {
                self.begun = true;
                return Some((self.bytes.drain(..end).collect(), None));
            }
            self.hears(wire, message[0], &message[5..]);
            match message[0] {
                b'S' | b'Q' => return Some((self.bytes.drain(..end).collect(), Some(at))),
                // The last message, a password, and what is copied: nobody waits for a reply before he sends more.
                b'X' | b'p' | b'd' | b'c' | b'f' => return Some((self.bytes.drain(..end).collect(), None)),
                _ => at = end,
            }
        }
    }

    /// Whose statement it is about.
    fn hears(&mut self, wire: &Wire, kind: u8, body: &[u8]) {
        let mut words = body.split(|&byte| byte == 0);
        match kind {
            b'P' => {
                let (name, sql) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                self.is_nobodys = wire.is_nobodys(&String::from_utf8_lossy(sql));
                self.nobodys.insert(name.to_vec(), self.is_nobodys);
            }
            b'B' => {
                let name = words.nth(1).unwrap_or_default();
                self.is_nobodys = self.nobodys.get(name).copied().unwrap_or_default();
            }
            b'Q' => self.is_nobodys = wire.is_nobodys(&String::from_utf8_lossy(body)),
            _ => {}
        }
    }
}
