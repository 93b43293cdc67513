//! Two hosts on one database against a reference model: whatever happens, in whatever order, every answer and every
//! row of the books are what the plainest telling of the rules says.
//!
//! `PROPTEST_CASES=2000 cargo test --test tollgate model::` runs for longer. A failure prints the smallest story that
//! fails, and the seed: `PROPTEST_RNG_SEED=… ` tells the same stories again.

mod books;
mod calendar;
mod host;
mod moves;
mod reference;
mod steps;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock};

use chrono::DateTime;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use proptest_state_machine::{StateMachineTest, prop_state_machine};
use tokio::runtime::Runtime;
use tollgate::clock::Clock;
use tollgate::gate::Gate;
use tollgate::store::Store;
use tollgate::worker;

use self::calendar::Period;
use self::reference::{Key, Model};
use self::steps::{Sent, Step};
use crate::harness::{Database, ENFORCED, Host, Setup, guests};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

/// For all stories: a new database for each would take longer than the story.
static DATABASE: LazyLock<Database> = LazyLock::new(|| RUNTIME.block_on(Database::migrated()));

const FORGET: &str =
    "TRUNCATE copilot_internal.cost_quotas, copilot_internal.cost_quota_periods, copilot_internal.tenants,
    copilot_internal.reservations, copilot_internal.cost_records, copilot_internal.alerts, copilot_internal.alert_deliveries";

/// The gate that is tested: two hosts, and a third whose worker does what happens without a request.
struct Gates {
    hosts: [Host; 2],
    gate: Arc<Gate>,
    store: Store,
    /// The reservations' ids, in the model's order.
    ids: Vec<String>,
}

impl Gates {
    async fn start(model: &Model) -> Self {
        DATABASE.run(FORGET).await;
        let clock = Clock::manual(DateTime::from_timestamp_millis(model.now).expect("an instant"));
        let setup = || Setup { clock: clock.clone(), database: Some(DATABASE.clone()), ..Setup::default() };
        let hosts = [setup().start().await, setup().start().await];
        let store = Store::new(DATABASE.options());
        let gate = Gate::start(
            store.clone(),
            guests::shipped(),
            ENFORCED,
            clock,
            crate::harness::outages(tollgate::gate::StoreFailure::Closed),
        );
        for (key, quota) in &model.quotas {
            hosts[0].set_quota(key, quota.limit, quota.hard_limit).await;
        }
        for (tenant, pool) in &model.pools {
            hosts[0].tenant(tenant, None, Some(pool)).await;
        }
        Self { hosts, gate, store, ids: Vec::new() }
    }

    async fn take(&mut self, model: &Model, Sent { step, host }: &Sent) {
        let host = &self.hosts[*host];
        match step {
            Step::Check(ask) => host.asks("/v1/check", ask).await.is(model, &mut self.ids),
            Step::Reserve(ask) => host.asks("/v1/reservations", ask).await.is(model, &mut self.ids),
            Step::ReserveAgain { .. } => {
                let ask = model.asked.last().expect("the one that was sent");
                host.asks("/v1/reservations", ask).await.is(model, &mut self.ids);
            }
            Step::Settle { which, actual } => {
                let (id, first) = (which.get(&self.ids).clone(), which.get(&model.reservations));
                host.settles(&id, first, *actual, model).await.is(model, &mut self.ids);
            }
            Step::Release { which } => {
                let (id, first) = (which.get(&self.ids).clone(), which.get(&model.reservations));
                host.ends(&id, first, "release", &[]).await.is(model, &mut self.ids);
            }
            Step::Extend { which, ttl } => {
                let (id, first) = (which.get(&self.ids).clone(), which.get(&model.reservations));
                host.ends(&id, first, "extend", &[("ttlSeconds", (*ttl).into())]).await.is(model, &mut self.ids);
            }
            Step::Cost { .. } | Step::CostAgain { .. } => {
                host.spends(model.sent_cost.as_ref().expect("a cost")).await.is(model, &mut self.ids);
            }
            Step::SetQuota { key, limit, hard } => host.set_quota(key, *limit, *hard).await,
            Step::SetLimitBySql { limit, .. } => {
                let update = format!("UPDATE copilot_internal.cost_quotas SET limit_usd = {limit} * 0.000000001");
                DATABASE.run(&format!("{update} WHERE {}", named(&model.touched()))).await;
            }
            Step::AddQuotaBySql { key, limit, spend } => self.add_quota_by_sql(model, key, *limit, *spend).await,
            Step::DeleteQuota { by_sql: true, .. } => {
                DATABASE
                    .run(&format!("DELETE FROM copilot_internal.cost_quotas WHERE {}", named(&model.touched())))
                    .await;
            }
            Step::DeleteQuota { .. } => host.delete_quota(&model.touched()).await,
            Step::SetPool { tenant, pool, by_sql: true } => {
                let pool = pool.map_or("NULL".to_owned(), |pool| format!("'{pool}'"));
                let insert =
                    format!("INSERT INTO copilot_internal.tenants (tenant_id, pool) VALUES ('{tenant}', {pool})");
                DATABASE.run(&format!("{insert} ON CONFLICT (tenant_id) DO UPDATE SET pool = excluded.pool")).await;
            }
            Step::SetPool { tenant, pool, .. } => host.tenant(tenant, None, *pool).await,
            Step::Advance(_) | Step::ToNextWindow(_) => {
                host.clock.set(DateTime::from_timestamp_millis(model.now).expect("an instant"));
            }
            Step::Expire => {
                worker::expire(&self.gate).await.expect("a database that answers");
                let due = books::due(model.now);
                assert_eq!(DATABASE.value(&due).await, "0", "held after it had expired");
            }
            Step::RollOver => {
                worker::roll_over(&self.store, &host.clock).await.expect("a database that answers");
                books::read(&DATABASE, model.now).await.all_are_open(model.now);
            }
        }
    }

    /// With its `period_start` somewhere inside the window, or none at all, as operators write it.
    async fn add_quota_by_sql(&self, model: &Model, key: &Key, limit: i64, spend: i64) {
        let (scope, id, resource, period) = key;
        let start = if spend == 0 { "NULL".to_owned() } else { format!("to_timestamp({} * 0.001)", model.now) };
        let insert = "INSERT INTO copilot_internal.cost_quotas
                      (scope, scope_id, resource_type, period, limit_usd, current_spend_usd, period_start)";
        let period = Period::word(*period);
        let values =
            format!("'{scope}', '{id}', '{resource}', '{period}', {limit} * 0.000000001, {spend} * 0.000000001");
        DATABASE.run(&format!("{insert} VALUES ({values}, {start})")).await;
    }
}

fn named((scope, id, resource, period): &Key) -> String {
    let period = period.word();
    format!("(scope, scope_id, resource_type, period) = ('{scope}', '{id}', '{resource}', '{period}')")
}

impl StateMachineTest for Gates {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(model: &Model) -> Self {
        LazyLock::force(&DATABASE);
        println!("these stories again: PROPTEST_RNG_SEED={}", *SEED);
        RUNTIME.block_on(Self::start(model))
    }

    fn apply(mut gates: Self, model: &Model, sent: Sent) -> Self {
        RUNTIME.block_on(gates.take(model, &sent));
        gates
    }

    fn check_invariants(gates: &Self, model: &Model) {
        RUNTIME.block_on(async { books::read(&DATABASE, model.now).await.are_those_of(model, &gates.ids) });
    }

    fn teardown(gates: Self, _: Model) {
        RUNTIME.block_on(async {
            gates.gate.flush().await;
            gates.store.close().await;
        });
    }
}

static SEED: LazyLock<u64> = LazyLock::new(|| match ProptestConfig::default().rng_seed {
    RngSeed::Fixed(seed) => seed,
    // The same stories for whoever runs the tests; more cases than usual are there to find new ones.
    RngSeed::Random if std::env::var_os("PROPTEST_CASES").is_none() => 2026,
    RngSeed::Random => RandomState::new().hash_one(()),
});

/// 24 stories, always the same, unless `PROPTEST_CASES` or `PROPTEST_RNG_SEED` says otherwise.
fn config() -> ProptestConfig {
    let told = ProptestConfig::default();
    ProptestConfig {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() { told.cases } else { 24 },
        rng_seed: RngSeed::Fixed(*SEED),
        max_shrink_iters: 400,
        failure_persistence: None,
        ..told
    }
}

prop_state_machine! {
    #![proptest_config(config())]

    #[test]
    fn whatever_happens_the_answers_and_the_books_are_those_of_the_model(sequential 20..40 => Gates);
}
