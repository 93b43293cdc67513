//! The binary: reads the command line, runs the command, prints its failure.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use tollgate::cli::Cli;
use tollgate::commands;

/// Most of a request's own cost is in small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match commands::run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Its status tells, where nobody reads.
            let _ = writeln!(std::io::stderr(), "{}", failure.text());
            ExitCode::from(failure.exit)
        }
    }
}
