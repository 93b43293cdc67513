//! A panic costs what panicked, and not the task that it happened in.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// How long [`kept_up`] waits before it begins again.
const PAUSE: Duration = Duration::from_secs(1);

/// What `work` comes to; `None` where it panicked. What it shares with others must bear to be left half done.
pub async fn contained<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(polled) => polled.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// Begins work again that panicked, until it comes to its end.
pub async fn kept_up<F: Future<Output = ()>>(what: &str, begin: impl Fn() -> F) {
    while contained(Box::pin(begin())).await.is_none() {
        tracing::error!(what, "Panicked; begins again");
        tokio::time::sleep(PAUSE).await;
    }
}
