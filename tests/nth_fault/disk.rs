//! Every step that an outage asks of the disk fails once: the caller is told and asks again, the end of the outage is tried
//! again, and the books have everything once.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tollgate::spool::{Disk, Local};

use super::{Frail, an_outage, is_in_the_books};

/// A disk that fails once, at the step that it is counted down to.
#[derive(Clone, Default)]
pub struct FrailDisk {
    left: Arc<AtomicI64>,
}

impl FrailDisk {
    fn arm(&self, nth: i64) {
        self.left.store(nth, Ordering::SeqCst);
    }

    /// Whether it has failed.
    fn disarm(&self) -> bool {
        self.left.swap(0, Ordering::SeqCst) <= 0
    }
}

impl Disk for FrailDisk {
    fn step(&mut self) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            return Err(io::Error::other("a fault of the test"));
        }
        Ok(())
    }

    fn write(&mut self, file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        let done = self.step();
        let part = if done.is_ok() { bytes.len() } else { bytes.len() / 2 };
        Local.write(file, at, &bytes[..part])?;
        done
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_in_an_outage_is_in_the_books_once_whichever_step_of_the_disk_fails() {
    let frail = Frail::start(false).await;
    for nth in 1.. {
        let (tenant, what) = (format!("t-{nth}"), format!("the disk, step {nth}"));
        let everything = an_outage(&frail, &tenant).await;
        frail.disk.arm(nth);
        for (path, body) in &everything {
            let mut answer = frail.host.post(path, body.clone()).await;
            if answer.status >= 500 {
                assert!(answer.text.contains("spool"), "{what}: {path}: {answer:?}");
                answer = frail.host.post(path, body.clone()).await;
            }
            assert!([200, 201].contains(&answer.status), "{what}: {path}: {answer:?}");
            assert_eq!(answer.at("/degraded"), true, "{what}: {path}");
        }
        frail.is_back().await;
        is_in_the_books(&frail, &tenant, &everything, &what).await;
        assert_eq!(frail.host.get("/metrics").await.text.matches("tollgate_spool_records 0").count(), 1, "{what}");
        if !frail.disk.disarm() {
            println!("{} steps of the disk", nth - 1);
            assert!(nth > 10, "each of five records is written and synced: {nth}");
            return;
        }
    }
}
