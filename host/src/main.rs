//! The binary: reads the command line, runs the command, prints its failure.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use tokio::runtime::Runtime;
use tollgate::cli::Cli;
use tollgate::commands;

/// Most of a request's own cost is in small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long what cannot be stopped, such as the look-up of a name, keeps the process from ending.
const LAST: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: cannot start threads: {error}");
            return ExitCode::from(2);
        }
    };
    let done = runtime.block_on(commands::run(cli));
    runtime.shutdown_timeout(LAST);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Its status tells, where nobody reads.
            let _ = writeln!(std::io::stderr(), "{}", failure.text());
            ExitCode::from(failure.exit)
        }
    }
}
