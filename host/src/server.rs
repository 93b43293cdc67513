//! The host: a listener, an app, and the signal to stop are handed in.

mod places;

use std::future::Future;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::ServiceExt;
use axum::extract::Request;
use axum::serve::ListenerExt as _;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use self::places::Places;
pub use self::places::take_all_descriptors;
use crate::api::{self, App};
use crate::config::Listen;
use crate::worker;
use crate::worker::alerts::Alerting;

/// How long requests in flight may take after the signal to stop.
const GRACE: Duration = Duration::from_secs(7);

/// And for what is left to write after them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A bound address.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// Binds. A Unix socket that a dead host left behind is replaced.
    ///
    /// # Errors
    /// The address is taken or not ours to bind.
    pub async fn bind(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            Listen::Unix(path) => {
                if is_socket(path) && tokio::net::UnixStream::connect(path).await.is_err() {
                    std::fs::remove_file(path)?;
                }
                UnixListener::bind(path).map(Self::Unix)
            }
        }
    }

    /// Where it listens really: the port, where 0 was asked for.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn address(&self, asked: &Listen) -> io::Result<Listen> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Listen::Tcp),
            Self::Unix(_) => Ok(asked.clone()),
        }
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

/// Serves until `shutdown` is ready, then finishes what is in flight, up to a time, and writes what is answered
/// but not yet in the decision log. `keep_days`: how long that is kept; `None` is for ever.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: Listener,
    app: Arc<App>,
    alerting: Arc<Alerting>,
    keep_days: Option<u32>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let routes = ServiceExt::<Request>::into_make_service(api::routes(app.clone()));
    // A store that is down now may never have been brought to this version.
    let is_migrated = !app.store.health().is_down();
    let (stop, stopped) = watch::channel(false);
    let watch = worker::watch_store(app.gate.clone(), app.store.clone(), is_migrated, stopped.clone());
    let watch = tokio::spawn(watch);
    // Before the first decision: while its day is made, a reader may find it in neither partition.
    if is_migrated && let Err(error) = Box::pin(worker::make_days(&app.store, &app.clock)).await {
        tracing::warn!(reason = %error, "Days of the decision log not made; tried again later");
    }
    let worker = worker::run(app.gate.clone(), app.store.clone(), app.clock.clone(), keep_days, stopped.clone());
    let worker = tokio::spawn(worker);
    let waiting = tokio::spawn(worker::try_waiting(app.gate.clone(), stopped.clone()));
    let alerts = worker::alerts::run(app.store.clone(), app.clock.clone(), alerting, stopped.clone());
    let alerts = tokio::spawn(alerts);
    let signal = async move {
        shutdown.await;
        let _ = stop.send(true);
    };
    let serving = async {
        match listener {
            // Small answers must not wait for one another.
            Listener::Tcp(listener) => {
                let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
                axum::serve(Places::of(listener), routes).with_graceful_shutdown(signal).await
            }
            Listener::Unix(listener) => axum::serve(Places::of(listener), routes).with_graceful_shutdown(signal).await,
        }
    };
    let too_late = async move {
        let mut stopped = stopped;
        let _ = stopped.wait_for(|stopped| *stopped).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = serving => served?,
        () = too_late => tracing::warn!("Connections were still open at the end of the grace period"),
    }
    watch.abort();
    let last = async {
        // None of them ends by itself before it is told to.
        let _ = tokio::join!(worker, waiting, alerts);
        app.gate.flush().await;
    };
    if tokio::time::timeout(LAST_WORDS, last).await.is_err() {
        tracing::warn!("The last decisions are not in the decision log");
    }
    Ok(())
}
