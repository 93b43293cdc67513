//! What a policy may use, and the guard that watches over one instance of it.

use std::time::Duration;

use serde::Deserialize;
use wasmtime::{ResourceLimiter, UpdateDeadline};

use super::failure::Growth;
use super::sandbox::{Moment, Sandbox};
use super::stopwatch::Stopwatch;

/// One tick of the clock that interrupts guests.
pub(super) const TICK: Duration = Duration::from_millis(1);
/// What a guest may return, before anything is allocated for it.
pub(super) const LARGEST_ANSWER: usize = 64 << 10;
/// Handles to resources; the interface has none.
pub(super) const MOST_HANDLES: usize = 64;
/// The largest memory that `memory_mib` can ask for.
pub const LARGEST_MEMORY_MIB: u32 = 512;
pub(super) const LARGEST_TABLE: usize = 20_000;
/// Of the guest's own calls, in bytes.
pub(super) const LARGEST_STACK: usize = 512 << 10;

/// What a policy may import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wasi {
    /// Nothing.
    #[default]
    Deny,
    /// WASI 0.2, with nothing in it.
    Sandbox,
}

/// What a policy may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What one call may take, start functions included; whole milliseconds of its thread's own time. While the machine
    /// does others' work first, or none of ours, a guest is not late.
    pub timeout: Duration,
    /// Linear memory of all its instances together, in MiB.
    pub memory_mib: u32,
    /// Size of the component's file in MiB.
    pub max_size_mib: u32,
    /// Imports.
    pub wasi: Wasi,
}

impl Default for Limits {
    fn default() -> Self {
        Self { timeout: Duration::from_millis(10), memory_mib: 16, max_size_mib: 4, wasi: Wasi::Deny }
    }
}

/// The limits of one instance, enforced as it grows and as its time runs out.
pub(super) struct Guard {
    pub(super) memory_left: usize,
    /// Of one call.
    timeout: Duration,
    /// Started with the call.
    watch: Stopwatch,
    /// Only there for those that may import it.
    pub(super) sandbox: Option<Box<Sandbox>>,
}

/// Ticks of the engine's clock within which so much time passes: one more, since the current one has begun already.
pub(super) fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX).saturating_add(1)
}

impl Guard {
    /// Its first call begins.
    pub(super) fn new(limits: Limits, sandbox: Option<Box<Sandbox>>) -> Self {
        let memory_left = limits.memory_mib as usize * (1 << 20);
        Self { memory_left, timeout: limits.timeout, watch: Stopwatch::start(), sandbox }
    }

    /// Another call begins.
    pub(super) fn begin(&mut self) {
        self.watch = Stopwatch::start();
    }

    /// The ticks for this call are over: it goes on where its thread has worked for less time than has passed.
    pub(super) fn at_deadline(&self) -> UpdateDeadline {
        match self.timeout.checked_sub(self.watch.worked()).filter(|left| !left.is_zero()) {
            Some(left) => UpdateDeadline::Continue(ticks(left)),
            None => UpdateDeadline::Interrupt,
        }
    }

    /// Asked for by host functions alone, which only a sandboxed policy can import.
    pub(super) fn sandbox(&mut self) -> &mut Sandbox {
        self.sandbox.get_or_insert_with(|| Box::new(Sandbox::new(Moment::default(), "")))
    }
}

impl ResourceLimiter for Guard {
    fn memory_growing(&mut self, current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        match self.memory_left.checked_sub(desired.saturating_sub(current)) {
            Some(left) => {
                self.memory_left = left;
                Ok(true)
            }
            None => Err(Growth::Memory.into()),
        }
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        if desired > LARGEST_TABLE { Err(Growth::Table.into()) } else { Ok(true) }
    }
}
