//! A database whose last words are lost: between a host and PostgreSQL, it forwards everything, until a statement with
//! a certain value in it. That one is carried out, and its reply and the connection are gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// The end of every reply outside a transaction: `ReadyForQuery`, idle.
const READY: &[u8] = b"Z\0\0\0\x05I";
/// What PostgreSQL calls its socket, for port 5432.
const SOCKET: &str = ".s.PGSQL.5432";

pub struct Proxy {
    wire: Wire,
    /// Of the socket, whose path has to be short.
    folder: PathBuf,
}

/// What every connection knows.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    #[default]
    Forwards,
    /// Waits for a statement with this in it.
    Armed(Vec<u8>),
    /// Carried it out, and swallowed its reply.
    Swallowed,
}

impl Proxy {
    /// In front of the server with this socket.
    pub fn start(server: &Path) -> Self {
        let folder = std::env::temp_dir().join(format!("tollgate-proxy-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let listener = UnixListener::bind(folder.join(SOCKET)).expect("a socket");
        let proxy = Self { wire: Wire::default(), folder };
        let (wire, server) = (proxy.wire.clone(), server.join(SOCKET));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&server).await.expect("a server");
                tokio::spawn(wire.clone().forward(client, server));
            }
        });
        proxy
    }

    /// Where its socket lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The next statement with `value` in it loses its reply.
    pub fn swallow(&self, value: &[u8]) {
        *self.wire.0.lock().expect("no panic") = State::Armed(value.to_owned());
    }

    /// Whether that has happened.
    pub fn has_swallowed(&self) -> bool {
        matches!(*self.wire.0.lock().expect("no panic"), State::Swallowed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Wire {
    /// Forwards until one side ends, or the reply is swallowed; then both sides are closed.
    async fn forward(self, mut client: UnixStream, mut server: UnixStream) {
        let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
        let mut lost: Option<Vec<u8>> = None;
        loop {
            tokio::select! {
                read = client.read(&mut asked) => {
                    let Ok(length @ 1..) = read else { return };
                    if self.is_it(&asked[..length]) {
                        lost = Some(Vec::new());
                    }
                    if server.write_all(&asked[..length]).await.is_err() {
                        return;
                    }
                }
                read = server.read(&mut answered) => {
                    let Ok(length @ 1..) = read else { return };
                    match &mut lost {
                        None if client.write_all(&answered[..length]).await.is_err() => return,
                        None => {}
                        Some(reply) => {
                            reply.extend_from_slice(&answered[..length]);
                            if reply.ends_with(READY) {
                                *self.0.lock().expect("no panic") = State::Swallowed;
                                return;
                            }
                        }
                    }
                }
            }
        }
    }

    fn is_it(&self, bytes: &[u8]) -> bool {
        let mut state = self.0.lock().expect("no panic");
        let is_it = match &*state {
            State::Armed(value) => bytes.windows(value.len()).any(|window| window == value),
            State::Forwards | State::Swallowed => false,
        };
        if is_it {
            *state = State::Forwards;
        }
        is_it
    }
}
