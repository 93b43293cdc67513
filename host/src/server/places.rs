//! Places for connections: fewer than this process has descriptors, so that callers cannot take those that the gate itself
//! needs; and whoever asks nothing for too long, or does not read what he is answered, gives his up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Descriptors for the store, policies, alerts and files.
const OWN: usize = 128;
/// Places there are in any case.
const FEWEST: usize = 16;
/// More than these need nobody's attention.
const MOST: usize = 100_000;
/// How long nothing may be answered on a connection. Callers keep theirs for a minute or two, and none of them should lose
/// one that it is just about to use.
const UNANSWERED_AT_MOST: Duration = Duration::from_mins(5);
/// The same, where fewer than a tenth of the places are left: more than any answer takes.
const UNANSWERED_AT_MOST_IN_A_CROWD: Duration = Duration::from_secs(40);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Takes as many descriptors as the system allows this process: what a shell allows by itself is meant for smaller programs.
pub fn take_all_descriptors() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(reason = %error, descriptors = soft, "No more descriptors than these");
    }
}

/// A listener with places for so many connections as this process has descriptors for.
pub(super) struct Places<L> {
    listener: L,
    free: Arc<Semaphore>,
    all: usize,
}

impl<L> Places<L> {
    pub(super) fn of(listener: L) -> Self {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let all = descriptors.saturating_sub(OWN).clamp(FEWEST, MOST);
        Self { listener, free: Arc::new(Semaphore::new(all)), all }
    }
}

impl<L: Listener> Listener for Places<L> {
    type Io = Placed<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = loop {
            // It is never closed.
            if let Ok(place) = self.free.clone().acquire_owned().await {
                break place;
            }
        };
        let (io, address) = self.listener.accept().await;
        let (since, look) = (Instant::now(), Box::pin(sleep(LOOK_EVERY)));
        (
            Placed { io, since, is_asked: false, look, free: self.free.clone(), few: self.all / 10, _place: place },
            address,
        )
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection in its place.
pub(super) struct Placed<Io> {
    io: Io,
    /// When something was answered last, or the first of a question came since. More of it says nothing: who sends a byte
    /// now and then asks nothing.
    since: Instant,
    is_asked: bool,
    look: Pin<Box<Sleep>>,
    free: Arc<Semaphore>,
    few: usize,
    _place: OwnedSemaphorePermit,
}

impl<Io> Placed<Io> {
    /// What was pending, unless it has been so for too long.
    fn or_over<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            return polled;
        }
        while self.look.as_mut().poll(context).is_ready() {
            let is_crowded = self.free.available_permits() < self.few;
            let at_most = if is_crowded { UNANSWERED_AT_MOST_IN_A_CROWD } else { UNANSWERED_AT_MOST };
            if self.since.elapsed() >= at_most {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.look.as_mut().reset(Instant::now() + LOOK_EVERY);
        }
        Poll::Pending
    }

    fn or_unread(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(bytes)) if bytes > 0) {
            (self.since, self.is_asked) = (Instant::now(), false);
        }
        self.or_over(written, context)
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Placed<Io> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, into);
        if into.filled().len() > before && !self.is_asked {
            (self.since, self.is_asked) = (Instant::now(), true);
        }
        self.or_over(read, context)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Placed<Io> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.or_unread(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, bytes);
        self.or_unread(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
