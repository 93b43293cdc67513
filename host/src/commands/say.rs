//! What commands print. The macros have the names of the standard ones, and stand in their place in this room: those
//! panic where nobody reads any more, as after `tollgate quota list | head -1`. Here nothing more is written then, and the
//! command goes on to its end: what it changes does not depend on who reads of it.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write as _};
use std::sync::OnceLock;

use super::Failure;

/// Why stdout could not be written, where somebody still wants to read it.
static UNWRITTEN: OnceLock<io::Error> = OnceLock::new();

macro_rules! print {
    ($($words:tt)*) => { $crate::commands::say::out(::std::format_args!($($words)*)) };
}

macro_rules! println {
    () => { print!("\n") };
    ($($words:tt)*) => { print!("{}\n", ::std::format_args!($($words)*)) };
}

macro_rules! eprint {
    ($($words:tt)*) => { $crate::commands::say::aside(::std::format_args!($($words)*)) };
}

macro_rules! eprintln {
    ($($words:tt)*) => { eprint!("{}\n", ::std::format_args!($($words)*)) };
}

/// To stdout.
pub(super) fn out(words: Arguments<'_>) {
    if let Err(error) = io::stdout().write_fmt(words)
        && error.kind() != ErrorKind::BrokenPipe
    {
        // The first of them is the cause of the others.
        let _ = UNWRITTEN.set(error);
    }
}

/// To stderr: nobody is left to tell that it could not be written.
pub(super) fn aside(words: Arguments<'_>) {
    let _ = io::stderr().write_fmt(words);
}

/// Whether everything was printed that somebody reads.
///
/// # Errors
/// Why it was not: the disk is full, say.
pub(super) fn all_was_written() -> Result<(), Failure> {
    UNWRITTEN.get().map_or(Ok(()), |error| Err(Failure::new(format!("cannot write to stdout: {error}"))))
}
