//! Time of one decision inside the engine: `standard`, a fresh instance, three quotas.
//!
//! `cargo bench --bench decision`; it builds the policies first.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use tollgate::decision::{Facts, Request};
use tollgate::money::Money;
use tollgate::period::Period;
use tollgate::policy::build::build;
use tollgate::policy::{Compiled, Engine};
use tollgate::quota::{Quota, QuotaKey, ResourceType, Scope, TenantId};
use uuid::Uuid;

fn facts(estimate: Money) -> Facts {
    let now = "2026-01-04T12:00:00Z".parse().expect("an instant");
    let resource_type = ResourceType::parse("llm").expect("a resource type");
    let quotas = [Period::Day, Period::Week, Period::Month].map(|period| Quota {
        id: Uuid::nil(),
        key: QuotaKey {
            scope: Scope::Tenant,
            scope_id: "acme-corp".into(),
            resource_type: resource_type.clone(),
            period,
        },
        window: period.window(now),
        limit: Money::from_nanos(50_000_000_000),
        hard_limit: None,
        spend: Money::from_nanos(48_500_000_000),
        held: Money::ZERO,
        previous_spend: None,
        admitted: 7,
    });
    Facts {
        request: Arc::new(Request {
            id: Uuid::nil(),
            at: now,
            tenant: TenantId::parse("acme-corp").expect("a tenant"),
            user: None,
            resource_type,
            estimate,
            request_id: None,
            attributes: vec![("model".to_owned(), "small".to_owned())],
        }),
        tier: None,
        pool: None,
        quotas: Arc::new(quotas.into()),
    }
}

fn standard() -> Compiled {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../policies/standard");
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-policies");
    build(&[root], &out, None).expect("the standard policy builds");
    let bytes = std::fs::read(out.join("standard.wasm")).expect("it was written");
    Engine::new().expect("an engine").compile(&bytes, tollgate::policy::engine::Limits::default()).expect("it compiles")
}

fn decisions(criterion: &mut Criterion) {
    let policy = standard();
    for (name, estimate) in [("allow", 1_000_000_000), ("deny", 2_000_000_000)] {
        let facts = facts(Money::from_nanos(estimate));
        criterion.bench_function(&format!("standard, fresh instance, 3 quotas, {name}"), |bencher| {
            bencher.iter(|| policy.decide(black_box(&facts), &[]));
        });
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
