//! Clocks that know the request's time, and no other.

use std::time::Duration;

use chrono::{DateTime, Utc};
use wasmtime::component::{HasData, Resource, ResourceTable};
use wasmtime_wasi::HostWallClock;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock::{Host, Instant};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

const MILLISECOND: Duration = Duration::from_millis(1);
/// By how much the monotonic clock moves each time it is read, in nanoseconds: a program may count on it to move.
const TICK: u64 = 1_000;

/// Stands at the request's time.
pub(super) struct WallClock(pub(super) DateTime<Utc>);

impl HostWallClock for WallClock {
    fn resolution(&self) -> Duration {
        MILLISECOND
    }

    fn now(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.timestamp_millis()).unwrap_or(0))
    }
}

/// Counts how often it was read; that is all the time that passes.
#[derive(Default)]
pub(super) struct Ticks(u64);

/// The monotonic clock, and where what waits for it is kept.
pub(super) struct Clocks<'a> {
    pub(super) ticks: &'a mut Ticks,
    pub(super) table: &'a mut ResourceTable,
}

impl HasData for Clocks<'static> {
    type Data<'a> = Clocks<'a>;
}

impl Host for Clocks<'_> {
    fn now(&mut self) -> wasmtime::Result<Instant> {
        self.ticks.0 = self.ticks.0.saturating_add(TICK);
        Ok(self.ticks.0)
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(TICK)
    }

    fn subscribe_instant(&mut self, when: Instant) -> wasmtime::Result<Resource<DynPollable>> {
        let now = self.ticks.0;
        self.subscribe_duration(when.saturating_sub(now))
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let alarm = self.table.push(if duration == 0 { Alarm::Now } else { Alarm::Never })?;
        subscribe(self.table, alarm)
    }
}

enum Alarm {
    Now,
    Never,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Alarm {
    async fn ready(&mut self) {
        match self {
            Self::Now => {}
            Self::Never => std::future::pending().await,
        }
    }
}
