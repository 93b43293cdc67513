//! What commands print. The macros have the names of the standard ones, and stand in their place in this room: those
//! panic where nobody reads any more, as after `tollgate quota list | head -1`. Here nothing more is written then, and the
//! command goes on to its end: what it changes does not depend on who reads of it.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::fmt::Write as _;
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
    if let Err(error) = io::stdout().write_all(harmless(&words.to_string()).as_bytes())
        && error.kind() != ErrorKind::BrokenPipe
    {
        // The first of them is the cause of the others.
        let _ = UNWRITTEN.set(error);
    }
}

/// A caller's text as part of a line: what would move the cursor, hide or reorder what stands there is written out, line
/// breaks too, so that no text can pass for another line.
pub(super) fn visible(text: &str) -> Cow<'_, str> {
    written_out(text, commands_a_terminal)
}

/// The same for whole lines.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    written_out(text, |c| commands_a_terminal(c) && !matches!(c, '\n' | '\t'))
}

/// A caller's text as one word of a line for a shell: nothing in it is run by whoever copies the line.
pub(super) fn word(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./@:+,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", text.replace('\'', "'\\''")))
}

fn written_out(text: &str, is_written_out: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_written_out) {
        return Cow::Borrowed(text);
    }
    let mut written = String::with_capacity(text.len());
    for c in text.chars() {
        if is_written_out(c) {
            // So that a text in JSON or TOML stays the text that it is.
            let _ = match c {
                '\n' => write!(written, "\\n"),
                c => write!(written, "\\u{:04x}", u32::from(c)),
            };
        } else {
            written.push(c);
        }
    }
    Cow::Owned(written)
}

/// Control characters, and those that turn the direction of writing.
fn commands_a_terminal(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
