//! What a policy may use, and the guard that watches over one instance of it.

use std::time::Duration;

use serde::Deserialize;
use wasmtime::ResourceLimiter;

use super::failure::Growth;
use super::sandbox::{Moment, Sandbox};

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
    /// Wall time of one call, start functions included; whole milliseconds.
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

/// The limits of one instance, enforced as it grows.
pub(super) struct Guard {
    pub(super) memory_left: usize,
    /// Only there for those that may import it.
    pub(super) sandbox: Option<Box<Sandbox>>,
}

impl Guard {
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
