//! A database that can be switched off: between a host and PostgreSQL, it forwards everything, or refuses, or is silent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// What PostgreSQL calls its socket, for port 5432.
const SOCKET: &str = ".s.PGSQL.5432";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Forwards,
    /// Whoever is connected is cut off, and nobody else gets in.
    Refuses,
    /// Takes everything, and answers nothing.
    IsSilent,
    /// Statements are carried out, and nobody hears of it: the connection is cut with the first reply.
    LosesReplies,
    /// Every reply comes later.
    Delays,
    /// A connection on which somebody says this is silent from then on, and the others are not.
    IsSilentAfter(&'static str),
}

/// How much later: much longer than a statement takes, and much less than a silence.
const DELAY: Duration = Duration::from_millis(100);

pub struct Switch {
    wire: watch::Sender<Wire>,
    /// The socket behind it.
    server: Arc<Mutex<PathBuf>>,
    /// Of the socket, whose path has to be short.
    folder: PathBuf,
}

impl Switch {
    /// In front of the server with this socket.
    pub fn new(server: &Path) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("tollgate-switch-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let listener = UnixListener::bind(folder.join(SOCKET)).expect("a socket");
        let wire = watch::Sender::new(Wire::Forwards);
        let server = Arc::new(Mutex::new(server.join(SOCKET)));
        let (told, leads_to) = (wire.clone(), server.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = leads_to.lock().expect("no panic").clone();
                tokio::spawn(forward(client, server, told.subscribe()));
            }
        });
        Self { wire, server, folder }
    }

    /// Where its socket lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// From the next connection on it leads to the server with this socket.
    pub fn leads_to(&self, server: &Path) {
        *self.server.lock().expect("no panic") = server.join(SOCKET);
    }

    pub fn now(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Until one side ends, or the wire is cut.
async fn forward(mut client: UnixStream, server: PathBuf, mut wire: watch::Receiver<Wire>) {
    if *wire.borrow() == Wire::Refuses {
        return;
    }
    let Ok(mut server) = UnixStream::connect(&server).await else { return };
    loop {
        let now = *wire.borrow_and_update();
        match now {
            Wire::Refuses => return,
            Wire::IsSilent => {
                if wire.changed().await.is_err() {
                    return;
                }
            }
            Wire::LosesReplies | Wire::Delays | Wire::IsSilentAfter(_) => {
                let (mut asks, mut answers) = (vec![0; 65_536], vec![0; 65_536]);
                let goes_on = tokio::select! {
                    read = client.read(&mut asks) => {
                        if let (Wire::IsSilentAfter(word), Ok(length)) = (now, &read)
                            && asks[..*length].windows(word.len()).any(|said| said == word.as_bytes())
                        {
                            return std::future::pending().await;
                        }
                        passes_on(read, &asks, &mut server).await
                    }
                    read = server.read(&mut answers) => {
                        if now == Wire::LosesReplies {
                            return;
                        }
                        if now == Wire::Delays {
                            tokio::time::sleep(DELAY).await;
                        }
                        passes_on(read, &answers, &mut client).await
                    }
                    changed = wire.changed() => changed.is_ok(),
                };
                if !goes_on {
                    return;
                }
            }
            Wire::Forwards => {
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => return,
                    changed = wire.changed() => if changed.is_err() { return },
                }
            }
        }
    }
}

/// What was read, if there is somebody to read and somebody to hear it.
async fn passes_on(read: io::Result<usize>, bytes: &[u8], to: &mut UnixStream) -> bool {
    match read {
        Ok(length @ 1..) => to.write_all(&bytes[..length]).await.is_ok(),
        _ => false,
    }
}
