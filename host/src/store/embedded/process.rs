//! Children that end with us, and waiting for what cannot be awaited.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
#[cfg(target_os = "linux")]
use nix::sys::{prctl::set_pdeathsig, signal::Signal};
use nix::unistd::{getpid, getppid, setsid};

/// How often [`within`] looks.
const POLL: Duration = Duration::from_millis(10);

/// Puts the child into a session of its own, where Ctrl-C in our terminal does not reach it, and lets
/// the kernel interrupt it (for the server: a fast shutdown) when the thread that spawns it ends.
///
/// Elsewhere than on Linux a child outlives a host that is killed, until the next start ends it.
#[allow(unsafe_code)]
pub(super) fn end_with_this_thread(command: &mut Command) {
    let parent = getpid();
    // SAFETY: the closure runs between fork and exec, so it may only do what is async-signal-safe. It makes
    // three system calls (setsid, prctl, getppid), allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            #[cfg(target_os = "linux")]
            set_pdeathsig(Signal::SIGINT)?;
            // We may have ended between fork and prctl: then the signal will never come.
            if getppid() == parent { Ok(()) } else { Err(io::Error::from(Errno::ESRCH)) }
        });
    }
}

/// Asks again and again until there is an answer, but not longer than `limit`. Blocks the thread.
pub(super) fn within<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..limit.as_millis() / POLL.as_millis() {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        thread::sleep(POLL);
    }
    ask()
}
