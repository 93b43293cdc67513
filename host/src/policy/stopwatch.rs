//! How long a thread has worked on something: while the machine does others' work first, a guest is not slow.

use std::cell::Cell;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// So long a look at a thread's own time is good for: it is a call of the system, and there is one start for each guest.
const GOOD_FOR: Duration = Duration::from_millis(1);

#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    worked: Duration,
}

thread_local! {
    static LAST_LOOK: Cell<Option<Look>> = const { Cell::new(None) };
}

/// Measures what the thread that started it does from then on.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Instant,
    /// The thread's own time then, or more: as if it had done nothing but work since the last look.
    worked: Option<Duration>,
}

impl Stopwatch {
    /// Starts it.
    pub fn start() -> Self {
        let started = Instant::now();
        let recent = LAST_LOOK.get().filter(|look| started.duration_since(look.at) < GOOD_FOR);
        let look = recent.or_else(|| {
            let look = Look { at: started, worked: thread_time()? };
            LAST_LOOK.set(Some(look));
            Some(look)
        });
        Self { started, worked: look.map(|look| look.worked + started.duration_since(look.at)) }
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// How long the thread has worked since then; less by no more than a millisecond. Where the system does not tell, all
    /// the time that has passed.
    pub fn worked(&self) -> Duration {
        let worked = self.worked.zip(thread_time()).map(|(before, now)| now.saturating_sub(before));
        worked.unwrap_or_else(|| self.started.elapsed())
    }
}

/// What this thread has worked since it began.
fn thread_time() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok().map(Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_and_waiting_does_not() {
        let waiting = Stopwatch::start();
        std::thread::sleep(20 * GOOD_FOR);
        assert!(waiting.worked() < waiting.started().elapsed() / 2);
        let (working, enough) = (Stopwatch::start(), thread_time().expect("a clock") + 5 * GOOD_FOR);
        while thread_time().expect("a clock") < enough {}
        assert!(working.worked() >= 4 * GOOD_FOR);
    }
}
