//! WASI for guests whose toolchain cannot do without: all of 0.2 is there to import, and nothing is in it.
//!
//! No files, no network, no environment, no arguments; the clocks know the request's time and nothing later, the random
//! source follows from the request's id, and what is printed is kept in bounds and logged. Nothing waits: what is not
//! ready at once never will be, so a wait is a failure and not a delay. The same facts give the same verdict.

mod clock;
mod io;
mod output;
mod random;

use chrono::{DateTime, Utc};
use uuid::Uuid;
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::bindings::random as wasi_random;
use wasmtime_wasi::p2::bindings::sync::io as wasi_io;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use self::clock::{Clocks, Ticks, WallClock};
use self::io::Io;
use self::output::Printed;
use self::random::Randomness;
use super::limits::Guard;

/// The interfaces that there are, each at 0.2.
const PACKAGES: [&str; 6] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];
/// What the host keeps for a guest: streams, pollables, errors.
const MOST_RESOURCES: usize = 128;

/// What a guest asked of its sandbox in vain.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// It would be an answer that depends on real time.
    #[error("it waits (wasi:io/poll, a sleep), and nothing that a policy could wait for ever comes")]
    Wait,
    #[error("it wants {0} random bytes at once, more than {most}", most = random::MOST_BYTES)]
    Random(u64),
}

/// The request that a decision is for, as far as its sandbox follows from it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moment {
    pub(super) at: DateTime<Utc>,
    pub(super) id: Uuid,
}

/// One instance's WASI.
pub(super) struct Sandbox {
    context: WasiCtx,
    table: ResourceTable,
    ticks: Ticks,
    random: Randomness,
    /// Logged when the instance ends, however it ends.
    _printed: [Printed; 2],
}

impl Sandbox {
    pub(super) fn new(moment: Moment, policy: &str) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MOST_RESOURCES);
        let [stdout, stderr] = ["stdout", "stderr"].map(|stream| Printed::new(policy, stream));
        let context = WasiCtx::builder()
            .stdin(MemoryInputPipe::new(""))
            .stdout(stdout.stream())
            .stderr(stderr.stream())
            .wall_clock(WallClock(moment.at))
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        let random = Randomness::of(moment.id);
        Self { context, table, ticks: Ticks::default(), random, _printed: [stdout, stderr] }
    }
}

impl WasiView for Guard {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let sandbox = self.sandbox();
        WasiCtxView { ctx: &mut sandbox.context, table: &mut sandbox.table }
    }
}

/// Of `imports`, those that the sandbox does not have.
pub(super) fn unknown(imports: &[String]) -> Vec<&str> {
    let known = |name: &str| {
        PACKAGES.iter().any(|package| name.starts_with(package))
            && name.split_once('@').is_some_and(|(_, version)| version.starts_with("0.2."))
    };
    imports.iter().map(String::as_str).filter(|name| !known(name)).collect()
}

/// What a sandboxed component may import.
///
/// # Errors
/// The engine refuses a definition: a fault of ours.
pub(super) fn link(linker: &mut Linker<Guard>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_sync(linker)?;
    // Ours instead of theirs, which wait on the host's runtime, tell real time, or are seeded by the machine.
    linker.allow_shadowing(true);
    wasi_io::poll::add_to_linker::<Guard, Io<'static>>(linker, |guard| Io(&mut guard.sandbox().table))?;
    wasi_io::streams::add_to_linker::<Guard, Io<'static>>(linker, |guard| Io(&mut guard.sandbox().table))?;
    monotonic_clock::add_to_linker::<Guard, Clocks<'static>>(linker, |guard| {
        let Sandbox { ticks, table, .. } = guard.sandbox();
        Clocks { ticks, table }
    })?;
    wasi_random::random::add_to_linker::<Guard, HasSelf<Randomness>>(linker, randomness)?;
    wasi_random::insecure::add_to_linker::<Guard, HasSelf<Randomness>>(linker, randomness)?;
    wasi_random::insecure_seed::add_to_linker::<Guard, HasSelf<Randomness>>(linker, randomness)
}

fn randomness(guard: &mut Guard) -> &mut Randomness {
    &mut guard.sandbox().random
}
