use super::*;

fn row(period: Period, period_start: Option<&str>) -> QuotaRow {
    QuotaRow {
        id: Uuid::nil(),
        key: QuotaKey {
            scope: Scope::Tenant,
            scope_id: "acme-corp".into(),
            resource_type: ResourceType::parse("llm").expect("a resource type"),
            period,
        },
        limit: Money::from_nanos(50),
        temporary: None,
        hard_limit: None,
        spend: Money::from_nanos(40),
        held: Money::from_nanos(5),
        admitted: 7,
        period_start: period_start.map(|at| at.parse().expect("an instant")),
        newest_closed: Some(("2026-01-03T00:00:00Z".parse().expect("an instant"), Money::from_nanos(9))),
    }
}

#[test]
fn a_new_window_starts_with_nothing_and_remembers_the_old_total() {
    let now = "2026-01-05T00:00:00Z".parse().expect("an instant");
    let quota = row(Period::Day, Some("2026-01-04T00:00:00Z")).at(now);
    assert_eq!((quota.spend, quota.held, quota.admitted), (Money::ZERO, Money::ZERO, 0));
    assert_eq!(quota.previous_spend, Some(Money::from_nanos(40)));
}

#[test]
fn no_period_start_means_the_current_window_with_its_spend() {
    let now = "2026-01-04T12:00:00Z".parse().expect("an instant");
    let quota = row(Period::Day, None).at(now);
    assert_eq!((quota.spend, quota.previous_spend), (Money::from_nanos(40), Some(Money::from_nanos(9))));
}

#[test]
fn a_window_never_moves_back_for_a_host_whose_clock_is_behind() {
    let now = "2026-01-04T23:59:59Z".parse().expect("an instant");
    let quota = row(Period::Day, Some("2026-01-05T00:00:00Z")).at(now);
    assert_eq!(quota.spend, Money::from_nanos(40));
    assert_eq!(quota.window.end, Some("2026-01-06T00:00:00Z".parse().expect("an instant")));
}

#[test]
fn a_temporary_limit_holds_until_its_last_instant_and_not_in_it() {
    let until = "2026-01-04T18:00:00Z".parse().expect("an instant");
    let limit = Money::from_nanos(75);
    let row = QuotaRow { temporary: Some(TemporaryLimit { limit, until }), ..row(Period::Day, None) };
    assert_eq!(row.at(until - chrono::TimeDelta::milliseconds(1)).limit, limit);
    assert_eq!(row.at(until).limit, Money::from_nanos(50));
}

#[test]
fn scope_ids_have_the_form_of_their_scope() {
    assert!(Scope::User.check_id("acme-corp/u-42").is_ok());
    for (scope, id) in [(Scope::User, "acme-corp"), (Scope::Global, "acme"), (Scope::Tenant, ""), (Scope::Pool, "a\nb")]
    {
        assert!(scope.check_id(id).is_err(), "{scope} {id:?}");
    }
}
