//! How a policy fails, told apart so that its author knows what to change and its operator what to allow.

use std::time::Duration;

use wasmtime::Trap;
use wasmtime::component::ResourceTableError;

use wasmtime_wasi::I32Exit;

use super::limits::{LARGEST_ANSWER, LARGEST_STACK, LARGEST_TABLE, Limits, MOST_HANDLES};
use super::sandbox::Refused;

/// Why a policy failed. Each kind is counted and reported on its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It is no component of this world, or imports something, or its settings or fixtures do not hold.
    #[error("{0}")]
    Load(String),
    /// It did not answer in time.
    #[error("no answer within {} ms (timeout_ms)", .0.as_millis())]
    Timeout(Duration),
    /// It stopped itself: a panic, an access out of bounds.
    #[error("trapped: {0}")]
    Trap(String),
    /// Its calls went deeper than its stack.
    #[error("overflowed its stack of {} KiB; is there a recursion without an end?", LARGEST_STACK >> 10)]
    Stack,
    /// It wanted more memory than it may have.
    #[error("wanted more than {0} MiB of memory (memory_mib)")]
    Memory(u32),
    /// It wanted a larger table of functions than there is.
    #[error("wanted a table of more than {LARGEST_TABLE} entries")]
    Table,
    /// It held more resources than it may.
    #[error("held more than {MOST_HANDLES} handles to resources at once; drop those that are done with")]
    Handles,
    /// Its answer was larger than 64 KiB.
    #[error("answered more than {} KiB", LARGEST_ANSWER >> 10)]
    Output,
    /// It answered something that is no verdict on these facts.
    #[error("bad answer: {0}")]
    BadAnswer(String),
    /// What may pass by itself: a file that is still being written, a disk or a compiler that did not answer.
    #[error("{0}")]
    Unready(String),
    /// It asked its sandbox for what there is not.
    #[error("{0}")]
    Sandbox(String),
    /// It has failed too often, and is not run for this tenant for now.
    #[error("not run for now, since it keeps failing; it is tried again within 10 s. It last failed with: {0}")]
    Paused(Box<PolicyError>),
}

impl PolicyError {
    /// The kind's name in metrics, logs and tables.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Load(_) => "load",
            Self::Timeout(_) => "timeout",
            Self::Trap(_) => "trap",
            Self::Stack => "stack",
            Self::Memory(_) => "memory",
            Self::Table => "table",
            Self::Handles => "handles",
            Self::Output => "output",
            Self::BadAnswer(_) => "bad_answer",
            Self::Unready(_) => "unready",
            Self::Sandbox(_) => "sandbox",
            Self::Paused(_) => "paused",
        }
    }

    /// Whether the same files may hold at another time: a busy machine makes a guest late.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Unready(_) | Self::Timeout(_))
    }
}

/// Begins what is said of a component that is no policy.
pub(super) const NO_DECIDER: &str = "does not export tollgate:policy/decider@0.1.0 as it should";

/// Marks the error that a refused growth raises, to tell it from other traps.
#[derive(Debug, thiserror::Error)]
pub(super) enum Growth {
    #[error("memory limit")]
    Memory,
    #[error("table limit")]
    Table,
}

/// What the engine says of a call that failed, in our words.
pub(super) fn classify(error: &wasmtime::Error, limits: Limits) -> PolicyError {
    match error.downcast_ref::<Growth>() {
        Some(Growth::Memory) => return PolicyError::Memory(limits.memory_mib),
        Some(Growth::Table) => return PolicyError::Table,
        None => {}
    }
    if let Some(refused) = error.downcast_ref::<Refused>() {
        return PolicyError::Sandbox(refused.to_string());
    }
    if let Some(I32Exit(status)) = error.downcast_ref::<I32Exit>() {
        return PolicyError::Trap(format!("it ended itself with status {status}"));
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref::<ResourceTableError>() {
        return PolicyError::Handles;
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => return PolicyError::Timeout(limits.timeout),
        Some(Trap::StackOverflow) => return PolicyError::Stack,
        Some(trap) => return PolicyError::Trap(trap.to_string()),
        None => {}
    }
    // The engine has no types for these.
    let text = format!("{error:#}");
    if text.contains("fuel allocated for hostcalls") {
        PolicyError::Output
    } else if text.contains("store handle limit exceeded") {
        PolicyError::Handles
    } else {
        PolicyError::BadAnswer(text)
    }
}

/// As [`classify`], for a component that does not become an instance. That its functions have other types than the
/// interface's is only seen here.
pub(super) fn unfit(error: &wasmtime::Error, limits: Limits) -> PolicyError {
    match classify(error, limits) {
        PolicyError::BadAnswer(text) => PolicyError::Load(format!("{NO_DECIDER}: {text}")),
        other => other,
    }
}
