//! What a guest prints: its beginning is kept and logged, the rest is dropped, and no guest notices.

use std::sync::{Arc, Mutex, PoisonError};

use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi_io::bytes::Bytes;

/// So much of each stream is kept, in bytes.
const KEPT: usize = 4 << 10;
/// What a guest may write at once; `blocking-write-and-flush` allows no more.
const CHUNK: usize = 4 << 10;

/// One stream's beginning; logged when it is dropped, which is when the instance has ended.
pub(super) struct Printed {
    policy: String,
    stream: &'static str,
    kept: Arc<Mutex<Vec<u8>>>,
}

impl Printed {
    pub(super) fn new(policy: &str, stream: &'static str) -> Self {
        Self { policy: policy.to_owned(), stream, kept: Arc::default() }
    }

    pub(super) fn stream(&self) -> Stream {
        Stream(self.kept.clone())
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.is_empty() {
            let text = String::from_utf8_lossy(&kept);
            tracing::debug!(digest = self.policy, stream = self.stream, text = text.trim_end(), "Policy printed");
        }
    }
}

/// Takes everything, at once.
#[derive(Clone)]
pub(super) struct Stream(Arc<Mutex<Vec<u8>>>);

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stream {
    /// For WASI 0.3, which there is not.
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::empty())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {}
}

impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(&bytes[..room]);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    /// Theirs makes the zeroes first, however many the guest asks for.
    fn write_zeroes(&mut self, count: usize) -> StreamResult<()> {
        self.write(Bytes::from(vec![0; count.min(KEPT)]))
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}
