//! `completions`: the command line as shells complete it.

use std::io::{ErrorKind, Write as _};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Failure;
use crate::cli::Cli;

pub(super) fn print(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tollgate", &mut script);
    match std::io::stdout().write_all(&script) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::new(format!("cannot write to stdout: {error}"))),
    }
}
