//! What comes twice in an outage, and while the first of it is still on its way to the disk, is kept once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollgate::gate::StoreFailure;
use tollgate::money::Money;
use tollgate::spool::{Disk, Local};

use super::Cut;
use super::switch::Wire;
use crate::harness::{Answer, llm};

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Sync {
    #[default]
    Works,
    Waits,
    Fails,
}

/// A disk whose syncs do as the test says.
#[derive(Clone, Default)]
struct ToldDisk(Arc<(Mutex<Sync>, Condvar)>);

impl ToldDisk {
    fn sync(&self, now: Sync) {
        *self.0.0.lock().expect("no panic") = now;
        self.0.1.notify_all();
    }
}

impl Disk for ToldDisk {
    fn sync(&mut self, file: &File) -> io::Result<()> {
        let now = self.0.0.lock().expect("no panic");
        let now = *self.0.1.wait_while(now, |now| *now == Sync::Waits).expect("no panic");
        if now == Sync::Fails { Err(io::Error::other("a fault of the test")) } else { Local.sync(file) }
    }
}

/// An outage in which each tenant may be allowed so much.
async fn bounded(usd: &str) -> (Cut, ToldDisk) {
    let disk = ToldDisk::default();
    let bound = Money::parse(usd).expect("an amount");
    let cut = Cut::on_disk(StoreFailure::Bounded(bound), Box::new(disk.clone())).await;
    cut.off(Wire::Refuses).await;
    (cut, disk)
}

/// The same request six times at once, while the disk works; then its syncs do as `then` says.
async fn six(cut: &Cut, disk: &ToldDisk, path: &str, body: &Value, then: Sync) -> Vec<Answer> {
    disk.sync(Sync::Waits);
    let asks = (0..6).map(|_| Answer::of(cut.host.request("POST", path).json(body)));
    let asks: JoinSet<Answer> = asks.collect();
    // Behind these questions all of them have come as far as they can.
    for _ in 0..20 {
        cut.host.get("/livez").await;
    }
    disk.sync(then);
    asks.join_all().await
}

fn again(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.at("/duplicate") == json!(true)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_id_is_one_reservation_though_it_comes_again_before_the_first_is_on_the_disk() {
    let (cut, disk) = bounded("10").await;
    let mut request = llm("4");
    request["requestId"] = json!("r-1");
    let answers = six(&cut, &disk, "/v1/reservations", &request, Sync::Works).await;
    assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
    let ids: BTreeSet<String> = answers.iter().map(|answer| answer.word("/reservationId")).collect();
    assert_eq!((ids.len(), again(&answers)), (1, 5), "{answers:?}");
    // It counts once against the bound.
    cut.reserve("6").await;
    cut.host.post("/v1/reservations", llm("0.01")).await.expect_status(503);
    cut.on().await;
    assert_eq!(cut.books().await, "0.00 + 10.00 of 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_did_not_take_gives_its_request_id_and_its_share_of_the_bound_back() {
    let (cut, disk) = bounded("4").await;
    let mut request = llm("4");
    request["requestId"] = json!("r-1");
    for answer in six(&cut, &disk, "/v1/reservations", &request, Sync::Fails).await {
        assert_eq!(answer.expect_status(507).word("/error"), "spool_full");
    }
    disk.sync(Sync::Works);
    let made = cut.host.post("/v1/reservations", request).await.expect_status(201);
    assert_eq!(made.at("/duplicate"), json!(null));
    cut.host.post("/v1/reservations", llm("0.01")).await.expect_status(503);
    cut.on().await;
    assert_eq!(cut.books().await, "0.00 + 4.00 of 1");
}
