//! The one harness: a host on port 0, a database of its own, a manual clock.

mod answer;
mod binary;
mod cluster;
mod disk;
pub mod guests;
mod mail;
pub mod page;
mod patience;
mod receiver;
mod scratch;
mod switch;
pub mod tape;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::oneshot;
use tollgate::alert::{Channels, Extras, Settings};
use tollgate::api::App;
use tollgate::api::auth::{Access, Transport};
use tollgate::clock::Clock;
use tollgate::config::Listen;
use tollgate::gate::{Enforcement, Gate, Outages, StoreFailure};
use tollgate::policy::Folder;
use tollgate::server::{self, Listener};
use tollgate::spool::{Disk, Local, Spool};
use tollgate::store::Store;
use tollgate::worker::alerts::Alerting;

pub use self::answer::Answer;
pub use self::binary::{Binary, Running, tollgate, tollgate_in, tollgate_into, tollgate_os};
pub use self::cluster::{Database, Row};
pub use self::disk::SmallDisk;
pub use self::mail::MailServer;
pub use self::patience::{PATIENCE, in_time, until, until_listening};
pub use self::receiver::{Behaviour, Receiver, slack_shows};
pub use self::scratch::Scratch;
pub use self::switch::{Switch, Wire};

/// Where every clock stands at first: a Sunday at noon.
pub const NOON: &str = "2026-01-04T12:00:00Z";

/// Part of every secret of the tests: what contains it was not for showing.
pub const CANARY: &str = "canary-7f3a9c";

/// Every answer, log line and printed line of the tests comes through here.
#[track_caller]
pub fn shows_no_secret(text: &str) {
    assert!(!text.contains(CANARY), "a secret is shown: {text}");
}

/// Both kinds of resource enforced.
pub const ENFORCED: Enforcement = Enforcement { e2b: true, others: true };

/// The tests' own HTTP clients ask the process which cryptography to use; the gate's are told. Called wherever a test
/// begins: by its database and its folder.
pub fn choose_cryptography() {
    // It has been chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// An instant as tests write it.
pub fn instant(text: &str) -> DateTime<Utc> {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// With a spool of its own, in a folder that goes with the test.
pub fn outages(mode: StoreFailure) -> Outages {
    outages_in(&Scratch::new(), Box::new(Local), mode)
}

fn outages_in(folder: &Scratch, disk: Box<dyn Disk>, mode: StoreFailure) -> Outages {
    Outages::new(mode, Spool::open_on(disk, folder.path(), 1 << 20).expect("a spool").0)
}

/// `acme-corp` asks for so much of `llm`.
pub fn llm(usd: &str) -> Value {
    json!({ "tenantId": "acme-corp", "resourceType": "llm", "estimatedCostUsd": usd })
}

/// `acme-corp` has spent so much on `llm`.
pub fn llm_cost(id: &str, usd: &str) -> Value {
    json!({ "tenantId": "acme-corp", "resourceType": "llm", "costId": id, "actualCostUsd": usd })
}

/// What a host is started with; the default is what most tests want.
pub struct Setup {
    pub clock: Clock,
    pub enforcement: Enforcement,
    pub access: Access,
    pub listen: Listen,
    pub policies: Arc<Folder>,
    /// Where alerts go.
    pub alerts: Settings,
    pub extras: Extras,
    /// A new one where none is given.
    pub database: Option<Database>,
    pub store_failure: StoreFailure,
    /// What its spool is written to.
    pub disk: Box<dyn Disk>,
    /// How long decisions are kept.
    pub keep_days: Option<u32>,
    /// Another way to the database than the direct one.
    pub through: Option<PgConnectOptions>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            clock: Clock::manual(instant(NOON)),
            enforcement: ENFORCED,
            access: Access { app: Vec::new(), admin: None, transport: Transport::Loopback },
            listen: Listen::Tcp(([127, 0, 0, 1], 0).into()),
            policies: guests::shipped(),
            alerts: Settings::default(),
            extras: Extras::default(),
            database: None,
            store_failure: StoreFailure::Open,
            disk: Box::new(Local),
            keep_days: Some(30),
            through: None,
        }
    }
}

/// A host that serves until the test ends.
pub struct Host {
    pub clock: Clock,
    pub database: Database,
    /// Where costs are kept while the store cannot be reached.
    pub spool: Scratch,
    client: reqwest::Client,
    url: String,
    /// Dropped with the host, which stops it.
    _stop: oneshot::Sender<()>,
}

impl Setup {
    pub async fn start(self) -> Host {
        let database = match self.database {
            Some(database) => database,
            None => Database::migrated().await,
        };
        let spool = Scratch::new();
        let store = Store::new(self.through.unwrap_or_else(|| database.options()));
        let listener = Listener::bind(&self.listen).await.expect("a free port");
        let address = listener.address(&self.listen).expect("its own address");
        let gate = Gate::start(
            store.clone(),
            self.policies.clone(),
            self.enforcement,
            self.clock.clone(),
            outages_in(&spool, self.disk, self.store_failure),
        );
        let app = App { gate, store, policies: self.policies, clock: self.clock.clone(), access: self.access };
        let (stop, stopped) = oneshot::channel::<()>();
        let channels = Channels::open(&self.alerts).expect("channels");
        let alerting = Alerting { channels, enforcement: self.enforcement, extras: self.extras };
        let stopped = async move { drop(stopped.await) };
        tokio::spawn(server::serve(listener, Arc::new(app), Arc::new(alerting), self.keep_days, stopped));
        let client = reqwest::Client::builder().no_proxy();
        let (client, url) = match address {
            Listen::Tcp(_) => (client, address.to_string()),
            Listen::Unix(path) => (client.unix_socket(path), "http://localhost".to_owned()),
        };
        let client = client.build().expect("a client");
        Host { clock: self.clock, database, spool, client, url, _stop: stop }
    }
}

impl Host {
    pub async fn start() -> Self {
        Setup::default().start().await
    }

    /// Another host on the same database, with the same clock.
    pub async fn beside(&self) -> Self {
        let (clock, database) = (self.clock.clone(), Some(self.database.clone()));
        Setup { clock, database, ..Setup::default() }.start().await
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sets the clock.
    pub fn at(&self, text: &str) {
        self.clock.set(instant(text));
    }

    /// A request that the test finishes itself.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request("GET", path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request("DELETE", path)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request("PUT", path).json(&body)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request("POST", path).json(&body)).await
    }

    /// A body as it is written.
    pub async fn post_text(&self, path: &str, body: &str) -> Answer {
        let request = self.request("POST", path).header("content-type", "application/json");
        Answer::of(request.body(body.to_owned())).await
    }

    pub async fn check(&self, request: Value) -> Answer {
        self.post("/v1/check", request).await
    }

    /// Records a cost, which must succeed.
    pub async fn cost(&self, cost: Value) -> Answer {
        self.post("/v1/costs", cost).await.expect_status(200)
    }

    /// Gives a tenant a tier and a pool.
    pub async fn tenant(&self, tenant: &str, tier: Option<&str>, pool: Option<&str>) {
        let answer = self.put(&format!("/v1/tenants/{tenant}"), json!({ "tier": tier, "pool": pool })).await;
        assert!([200, 201].contains(&answer.status), "{answer:?}");
    }
}
