//! Every operation with its connection to the store cut at its first request, at its second, and so on, until it is
//! through without a cut: before the request, in the middle of it, and after it, with the reply lost. Each time the
//! caller is answered, asks again by the same id, and the books have it once.

mod disk;
mod tripwire;

use serde_json::{Value, json};
use tollgate::gate::StoreFailure;

use self::disk::FrailDisk;
use self::tripwire::{Cut, Tripwire};
use crate::harness::{Database, Host, NOON, Setup, Switch, Wire, instant, until};

/// A host whose connections can be cut, whose database can be switched off, and whose disk fails when it is told to.
struct Frail {
    host: Host,
    database: Database,
    disk: FrailDisk,
    tripwire: Tripwire,
    switch: Switch,
}

impl Frail {
    async fn start(counts_expiry: bool) -> Self {
        let database = Database::migrated().await;
        let tripwire = Tripwire::new(database.options().get_socket().expect("a socket"), counts_expiry);
        let switch = Switch::new(tripwire.folder());
        let through = Some(database.options().socket(switch.folder()));
        let disk = FrailDisk::default();
        let host = Setup {
            database: Some(database.clone()),
            through,
            store_failure: StoreFailure::Open,
            disk: Box::new(disk.clone()),
            ..Setup::default()
        };
        let host = host.start().await;
        Self { host, database, disk, tripwire, switch }
    }

    async fn is_degraded(&self, degraded: bool) {
        until("the gate knows how its store is", || async {
            self.host.get("/readyz").await.json()["degraded"] == json!(degraded)
        })
        .await;
    }

    /// Every connection is a new one from now on, so that each time the same requests are made on it.
    async fn forgets_its_connections(&self) {
        self.switch.now(Wire::Refuses);
        self.is_degraded(true).await;
        self.is_back().await;
    }

    async fn is_back(&self) {
        self.switch.now(Wire::Forwards);
        self.is_degraded(false).await;
    }

    /// Sends something that must succeed.
    async fn send(&self, path: &str, body: &Value) -> Value {
        let answer = self.host.post(path, body.clone()).await;
        assert!([200, 201].contains(&answer.status), "{path} {body}: {answer:?}");
        answer.json()
    }

    async fn reserve(&self, tenant: &str, request: &str) -> String {
        let made = self.send("/v1/reservations", &reservation(tenant, request)).await;
        made["reservationId"].as_str().expect("an id").to_owned()
    }

    /// What the quota says, what its rows come to, and how many they are.
    async fn books(&self, tenant: &str) -> String {
        self.database
            .value(&format!(
                "SELECT current_spend_usd::numeric(20,2) || ' + ' || held_usd::numeric(20,2) || ' of ' || admitted_count
                     || '; rows ' || (coalesce((SELECT sum(actual_usd) FROM copilot_internal.cost_records WHERE tenant_id = '{tenant}'), 0)
                         + coalesce((SELECT sum(actual_usd) FROM copilot_internal.reservations WHERE tenant_id = '{tenant}'), 0))::numeric(20,2)
                     || ' + ' || coalesce((SELECT sum(held_usd) FROM copilot_internal.reservations
                                           WHERE tenant_id = '{tenant}' AND state = 'held'), 0)::numeric(20,2)
                     || ' of ' || (SELECT count(*) FROM copilot_internal.cost_records WHERE tenant_id = '{tenant}')
                         + (SELECT count(*) FROM copilot_internal.reservations WHERE tenant_id = '{tenant}')
                 FROM copilot_internal.cost_quotas WHERE scope = 'tenant' AND scope_id = '{tenant}'"
            ))
            .await
    }
}

fn reservation(tenant: &str, request: &str) -> Value {
    json!({ "tenantId": tenant, "resourceType": "llm", "estimatedCostUsd": "2", "requestId": request, "ttlSeconds": 300 })
}

fn cost(tenant: &str) -> Value {
    json!({ "tenantId": tenant, "resourceType": "llm", "costId": "c", "actualCostUsd": "4" })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Reserve,
    Settle,
    Release,
    Extend,
    Cost,
}

impl Operation {
    /// The route and the body, for a tenant that has made the reservation `id`.
    fn request(self, tenant: &str, id: &str) -> (String, Value) {
        let (route, more) = match self {
            Self::Reserve => return ("/v1/reservations".into(), reservation(tenant, "asked")),
            Self::Cost => return ("/v1/costs".into(), cost(tenant)),
            Self::Settle => ("settle", json!({ "tenantId": tenant, "actualCostUsd": "1.5" })),
            Self::Release => ("release", json!({ "tenantId": tenant })),
            Self::Extend => ("extend", json!({ "tenantId": tenant, "ttlSeconds": 600 })),
        };
        (format!("/v1/reservations/{id}/{route}"), more)
    }

    /// The books after it, beside the first reservation of $2.
    const fn books(self) -> &'static str {
        match self {
            Self::Reserve => "0.00 + 4.00 of 2; rows 0.00 + 4.00 of 2",
            Self::Settle => "1.50 + 0.00 of 1; rows 1.50 + 0.00 of 1",
            Self::Release => "0.00 + 0.00 of 1; rows 0.00 + 0.00 of 1",
            Self::Extend => "0.00 + 2.00 of 1; rows 0.00 + 2.00 of 1",
            Self::Cost => "4.00 + 2.00 of 2; rows 4.00 + 2.00 of 2",
        }
    }
}

/// Cuts the operation at every request that it makes of the store; tells how many there were.
async fn cut_everywhere(operation: Operation, cut: Cut) -> usize {
    let frail = Frail::start(false).await;
    for nth in 1.. {
        let (tenant, what) = (format!("t-{nth}"), format!("{operation:?}, {cut:?} {nth}"));
        frail.database.quota(&format!("tenant {tenant} llm lifetime"), "100", "0").await;
        let first = frail.reserve(&tenant, "before").await;
        let (path, body) = operation.request(&tenant, &first);
        // What the lane knows of its rows is no longer so: a reservation takes its longest way, by a second look.
        frail
            .database
            .run(&format!("UPDATE copilot_internal.cost_quotas SET limit_usd = 101 WHERE scope_id = '{tenant}'"))
            .await;
        frail.forgets_its_connections().await;
        frail.tripwire.arm(cut, nth);
        let answered = frail.send(&path, &body).await;
        let is_cut = frail.tripwire.disarm();
        assert!(is_cut || answered["degraded"].is_null(), "{what}: {answered}");
        frail.is_degraded(false).await;
        assert_eq!(frail.books(&tenant).await, operation.books(), "{what}: {answered}");
        let again = frail.send(&path, &body).await;
        match operation {
            Operation::Reserve => assert_eq!(again["reservationId"], answered["reservationId"], "{what}"),
            Operation::Extend => assert_eq!(again["expiresAt"], answered["expiresAt"], "{what}"),
            Operation::Settle | Operation::Release | Operation::Cost => {}
        }
        if operation != Operation::Extend {
            assert_eq!(again["duplicate"], true, "{what}: {again}");
        }
        assert_eq!(frail.books(&tenant).await, operation.books(), "{what}, asked again");
        if !is_cut {
            return nth - 1;
        }
    }
    unreachable!("an operation ends")
}

/// Every cut at once, on a host each.
async fn survives(operation: Operation) {
    let (before, unfinished, lost) = tokio::join!(
        Box::pin(cut_everywhere(operation, Cut::Before)),
        Box::pin(cut_everywhere(operation, Cut::Unfinished)),
        Box::pin(cut_everywhere(operation, Cut::ReplyLost)),
    );
    println!("{operation:?}: {before}, {unfinished} and {lost} requests cut");
    // To prepare a statement is a request, and to run it is one. A lane that has lost before makes more of them.
    assert!(before >= 2 && unfinished >= 2 && lost >= 2, "{operation:?} asks the store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_is_made_once_wherever_its_connection_is_cut() {
    survives(Operation::Reserve).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settle_is_recorded_once_wherever_its_connection_is_cut() {
    survives(Operation::Settle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_gives_back_once_wherever_its_connection_is_cut() {
    survives(Operation::Release).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_holds_wherever_its_connection_is_cut() {
    survives(Operation::Extend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cost_is_recorded_once_wherever_its_connection_is_cut() {
    survives(Operation::Cost).await;
}

async fn expiry_cut_everywhere(cut: Cut) -> usize {
    let frail = Frail::start(true).await;
    let mut now = instant(NOON);
    for nth in 1.. {
        let (tenant, what) = (format!("t-{nth}"), format!("expiry, {cut:?} {nth}"));
        frail.database.quota(&format!("tenant {tenant} llm lifetime"), "100", "0").await;
        frail.reserve(&tenant, "before").await;
        now += chrono::TimeDelta::seconds(301);
        // The worker's next look, whenever it comes, finds the time over.
        frail.host.clock.set(now);
        frail.tripwire.arm(cut, nth);
        let expected = "0.00 + 0.00 of 1; rows 0.00 + 0.00 of 1";
        until(&format!("{what}: it is given back"), || async { frail.books(&tenant).await == expected }).await;
        let is_cut = frail.tripwire.disarm();
        frail.is_degraded(false).await;
        assert_eq!(frail.books(&tenant).await, expected, "{what}");
        if !is_cut {
            return nth - 1;
        }
    }
    unreachable!("an expiry ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_is_given_back_once_wherever_its_connection_is_cut() {
    let cuts = tokio::join!(
        Box::pin(expiry_cut_everywhere(Cut::Before)),
        Box::pin(expiry_cut_everywhere(Cut::Unfinished)),
        Box::pin(expiry_cut_everywhere(Cut::ReplyLost)),
    );
    println!("expiry: {cuts:?} requests cut");
    assert!(cuts.0 > 0 && cuts.1 > 0 && cuts.2 > 0);
}

/// The store is down, and here is one of everything that is kept then.
async fn an_outage(frail: &Frail, tenant: &str) -> [(String, Value); 5] {
    frail.database.quota(&format!("tenant {tenant} llm lifetime"), "100", "0").await;
    let mut ids = Vec::new();
    for request in ["settled", "released", "extended"] {
        ids.push(frail.reserve(tenant, request).await);
    }
    frail.switch.now(Wire::Refuses);
    frail.is_degraded(true).await;
    [
        Operation::Reserve.request(tenant, ""),
        Operation::Settle.request(tenant, &ids[0]),
        Operation::Release.request(tenant, &ids[1]),
        Operation::Extend.request(tenant, &ids[2]),
        Operation::Cost.request(tenant, ""),
    ]
}

/// Everything is in the books, once.
async fn is_in_the_books(frail: &Frail, tenant: &str, everything: &[(String, Value)], what: &str) {
    let expected = "5.50 + 4.00 of 5; rows 5.50 + 4.00 of 5";
    assert_eq!(frail.books(tenant).await, expected, "{what}");
    for (path, body) in everything {
        let again = frail.send(path, body).await;
        assert!(path.ends_with("/extend") || again["duplicate"] == true, "{what}: {path}: {again}");
    }
    assert_eq!(frail.books(tenant).await, expected, "{what}, asked again");
}

/// One of everything in the spool, and then the store is back, and its connection breaks in the middle of it. Tells
/// whether it did.
async fn replay_cut(frail: &Frail, cut: Cut, nth: usize) -> bool {
    let (tenant, what) = (format!("t-{nth}"), format!("replay, {cut:?} {nth}"));
    let everything = an_outage(frail, &tenant).await;
    for (path, body) in &everything {
        assert_eq!(frail.send(path, body).await["degraded"], true, "{what}: {path}");
    }
    frail.tripwire.arm(cut, nth);
    frail.is_back().await;
    let is_cut = frail.tripwire.disarm();
    is_in_the_books(frail, &tenant, &everything, &what).await;
    is_cut
}

async fn replay_cut_everywhere(cut: Cut) -> usize {
    let frail = Frail::start(false).await;
    for nth in 1.. {
        if !replay_cut(&frail, cut, nth).await {
            return nth - 1;
        }
    }
    unreachable!("a replay ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_falls_silent_in_the_middle_of_a_replay_is_noticed_and_the_next_one_ends() {
    let frail = Frail::start(false).await;
    assert!(replay_cut(&frail, Cut::Silence, 4).await, "a replay makes more than four requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_is_in_the_books_once_wherever_its_replay_is_cut() {
    let cuts = tokio::join!(
        Box::pin(replay_cut_everywhere(Cut::Before)),
        Box::pin(replay_cut_everywhere(Cut::Unfinished)),
        Box::pin(replay_cut_everywhere(Cut::ReplyLost)),
    );
    println!("replay: {cuts:?} requests cut");
    assert!(cuts.0 >= 5 && cuts.1 >= 5 && cuts.2 >= 5, "each kind of record is a request of its own: {cuts:?}");
}
