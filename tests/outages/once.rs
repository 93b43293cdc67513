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
use crate::harness::{Answer, Wire, llm, llm_cost};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_is_one_reservation_in_an_outage_too() {
    let cut = Cut::start(StoreFailure::Open).await;
    cut.off(Wire::Refuses).await;
    let mut request = llm("10");
    request["requestId"] = json!("r-1");
    let first = cut.host.post("/v1/reservations", request.clone()).await.expect_status(201);
    let again = cut.host.post("/v1/reservations", request.clone()).await.expect_status(201);
    assert_eq!(again.word("/reservationId"), first.word("/reservationId"));
    assert_eq!(again.at("/duplicate"), json!(true));
    let mut other = request.clone();
    other["estimatedCostUsd"] = json!(11);
    cut.host.post("/v1/reservations", other).await.expect_status(409);
    cut.on().await;
    assert_eq!(cut.books().await, "0.00 + 10.00 of 1");
    let later = cut.host.post("/v1/reservations", request).await.expect_status(201);
    assert_eq!(again.at("/degraded"), json!(true));
    let mut expected = again.json();
    expected.as_object_mut().expect("an object").remove("degraded");
    assert_eq!(later.json(), expected);
    assert_eq!(cut.books().await, "0.00 + 10.00 of 1");
}

/// Records that wait in the spool.
async fn records(cut: &Cut) -> String {
    let metrics = cut.host.get("/metrics").await.text;
    let line = metrics.lines().find_map(|line| line.strip_prefix("tollgate_spool_records "));
    line.expect("a metric").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_in_an_outage_is_a_duplicate_and_what_says_something_else_a_conflict() {
    let (cut, disk) = bounded("100").await;
    let (_, settled) = cut.reserve("3").await;
    let (_, released) = cut.reserve("5").await;
    let settle = format!("/v1/reservations/{settled}/settle");
    let release = format!("/v1/reservations/{released}/release");
    let acme = json!({ "tenantId": "acme-corp" });
    let settles = |usd: &str| json!({ "tenantId": "acme-corp", "actualCostUsd": usd });
    for (path, body, other) in [
        (&settle, settles("2.5"), Some(settles("2.6"))),
        (&release, acme.clone(), None),
        (&"/v1/costs".to_owned(), llm_cost("c-1", "1"), Some(llm_cost("c-1", "2"))),
    ] {
        let before: usize = records(&cut).await.parse().expect("a number");
        let answers = six(&cut, &disk, path, &body, Sync::Works).await;
        assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
        assert_eq!(again(&answers), 5, "{path}: {answers:?}");
        let later = cut.host.post(path, body).await.expect_status(200);
        assert_eq!((later.at("/duplicate"), later.at("/degraded")), (json!(true), json!(true)), "{path}");
        if let Some(other) = other {
            let refused = cut.host.post(path, other).await.expect_status(409);
            assert_eq!(refused.word("/error"), "idempotency_conflict", "{path}");
        }
        assert_eq!(records(&cut).await, (before + 1).to_string(), "{path}");
    }
    // What was settled, or given back, has ended.
    for (id, how, body) in [
        (&settled, "release", json!({})),
        (&settled, "extend", json!({ "ttlSeconds": 60 })),
        (&released, "extend", json!({ "ttlSeconds": 60 })),
    ] {
        let over = cut.end(id, how, body).await.expect_status(410);
        assert_eq!(over.word("/error"), "reservation_ended", "{how}");
    }
    // And yet what it cost is recorded, late.
    cut.end(&released, "settle", json!({ "actualCostUsd": 4 })).await.expect_status(200);
    cut.host.post(&release, acme).await.expect_status(410);
    cut.on().await;
    assert_eq!(cut.books().await, "7.50 + 0.00 of 3");
    let rejected = std::fs::read_dir(cut.host.spool.path()).expect("a folder").flatten();
    let rejected = rejected.filter(|file| file.path().extension().is_some_and(|extension| extension == "rejected"));
    assert_eq!(rejected.count(), 0);
}
