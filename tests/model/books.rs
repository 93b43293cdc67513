//! The tables, read by SQL, against the model.

use std::collections::BTreeMap;

use serde_json::Value;

use super::calendar::Period;
use super::reference::{Model, State};
use crate::harness::Database;

/// Quotas with their own row and their closed windows; reservations; alerts: amounts in nano-dollars, instants in
/// milliseconds. What is due and not yet given back is told beside what is held.
const BOOKS: &str = "
    WITH due AS (
        SELECT h.quota, h.start, sum(r.held_usd) AS usd
        FROM copilot_internal.reservations r, unnest(r.quota_ids, r.window_starts) AS h (quota, start)
        WHERE r.state = 'held' AND r.expires_at <= to_timestamp($NOW * 0.001)
        GROUP BY 1, 2
    ), windows AS (
        SELECT id, period_start AS start, current_spend_usd AS spend, held_usd AS held, admitted_count AS admitted, true AS open
        FROM copilot_internal.cost_quotas
        UNION ALL
        SELECT quota_id, window_start, spend_usd, held_usd, admitted_count, false FROM copilot_internal.cost_quota_periods
    )
    SELECT json_build_object(
        'windows', (
            SELECT coalesce(json_agg(json_build_array(
                q.scope, q.scope_id, q.resource_type, q.period, (extract(epoch FROM w.start) * 1000)::bigint,
                (w.spend * 1000000000)::bigint, ((w.held - coalesce(due.usd, 0)) * 1000000000)::bigint, w.admitted, w.open)), '[]')
            FROM windows w JOIN copilot_internal.cost_quotas q USING (id)
            LEFT JOIN due ON due.quota = w.id AND due.start = w.start),
        'reservations', (
            SELECT coalesce(json_object_agg(id, json_build_array(
                state, (actual_usd * 1000000000)::bigint, late, (extract(epoch FROM expires_at) * 1000)::bigint)), '{}')
            FROM copilot_internal.reservations),
        'alerts', (
            SELECT coalesce(json_agg(json_build_array(
                q.scope, q.scope_id, q.resource_type, q.period, (extract(epoch FROM a.window_start) * 1000)::bigint,
                a.threshold, (a.limit_usd * 1000000000)::bigint)), '[]')
            FROM copilot_internal.alerts a JOIN copilot_internal.cost_quotas q ON q.id = a.quota_id),
        'costs', (SELECT count(*) FROM copilot_internal.cost_records))";

/// How many reservations still hold money though their time is over.
pub fn due(now: i64) -> String {
    format!(
        "SELECT count(*) FROM copilot_internal.reservations
         WHERE state = 'held' AND expires_at <= to_timestamp({now} * 0.001)"
    )
}

pub struct Books(Value);

pub async fn read(database: &Database, now: i64) -> Books {
    let text = database.value(&BOOKS.replace("$NOW", &now.to_string())).await;
    Books(serde_json::from_str(&text).expect("JSON"))
}

/// Spend, held, admitted.
type Totals = (i64, i64, i64);

impl Books {
    fn list(&self, name: &str) -> impl Iterator<Item = &Vec<Value>> {
        self.0[name].as_array().expect("a list").iter().map(|row| row.as_array().expect("a row"))
    }

    pub fn are_those_of(&self, model: &Model, ids: &[String]) {
        let key =
            |row: &[Value]| -> [String; 4] { std::array::from_fn(|n| row[n].as_str().expect("a word").to_owned()) };
        let number = |value: &Value| value.as_i64().unwrap_or_else(|| panic!("{value} is no number"));
        let mut written: BTreeMap<([String; 4], i64), Totals> = BTreeMap::new();
        for row in self.list("windows") {
            let start = Period::of(row[3].as_str().expect("a word")).start(row[4].as_i64().unwrap_or(model.now));
            let totals = (number(&row[5]), number(&row[6]), number(&row[7]));
            assert_eq!(written.insert((key(row), start), totals), None, "twice in the books: {row:?}");
        }
        written.retain(|_, totals| *totals != (0, 0, 0));
        let mut expected: BTreeMap<([String; 4], i64), Totals> = BTreeMap::new();
        for ((scope, id, resource, period), quota) in &model.quotas {
            let name = || [*scope, *id, *resource, period.word()].map(str::to_owned);
            for (&window, &(spend, admitted)) in
                model.windows.range((quota.number, i64::MIN)..=(quota.number, i64::MAX))
            {
                expected.insert((name(), window.1), (spend, model.held_now(window), admitted));
            }
        }
        expected.retain(|_, totals| *totals != (0, 0, 0));
        assert_eq!(written, expected, "windows: written, expected");
        self.reservations_are_those_of(model, ids);
        assert_eq!(self.0["costs"], model.costs.len(), "costs");
        let numbers = |row: &Vec<Value>| {
            let of = |(at, _): &(&super::reference::Key, _)| {
                [at.0, at.1, at.2, at.3.word()].iter().zip(row).all(|(word, value)| value == word)
            };
            let quota = model.quotas.iter().find(of).expect("a quota").1.number;
            (quota, number(&row[4]), number(&row[5]), number(&row[6]))
        };
        let fired: std::collections::BTreeSet<_> = self.list("alerts").map(numbers).collect();
        let living = |quota: u32| model.quotas.values().any(|each| each.number == quota);
        for alert in model.due_alerts.iter().filter(|alert| living(alert.0)) {
            assert!(fired.contains(alert), "not fired: {alert:?}");
        }
        assert!(fired.is_subset(&model.possible_alerts), "fired {fired:?}, possible {:?}", model.possible_alerts);
    }

    fn reservations_are_those_of(&self, model: &Model, ids: &[String]) {
        let rows = self.0["reservations"].as_object().expect("an object");
        assert_eq!((rows.len(), ids.len()), (ids.len(), model.reservations.len()), "reservations");
        for (id, expected) in ids.iter().zip(&model.reservations) {
            let row = &rows[id];
            let (actual, states): (_, &[&str]) = match expected.state {
                State::Held if model.is_live(expected) => (None, &["held"]),
                State::Held => (None, &["held", "expired"]),
                State::Released => (None, &["released"]),
                State::Settled(usd) => (Some(usd), &["settled"]),
            };
            assert!(states.iter().any(|state| row[0] == *state), "{row} is not {expected:?}");
            assert_eq!((row[1].as_i64(), &row[2]), (actual, &Value::Bool(expected.late)), "{row}: {expected:?}");
            assert_eq!(row[3].as_i64(), Some(expected.expires), "{row}: {expected:?}");
        }
    }

    /// After the worker: no row stands in a window that is over.
    pub fn all_are_open(&self, now: i64) {
        for row in self.list("windows").filter(|row| row[8] == true) {
            let period = Period::of(row[3].as_str().expect("a word"));
            assert!(row[4].as_i64().is_none_or(|start| period.start(start) == period.start(now)), "{row:?}");
        }
    }
}

/// An amount as callers write it.
pub fn dollars(nanos: i64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// An amount as it is answered, exactly: without a float's arithmetic.
pub fn nanos(value: &Value) -> i64 {
    let text = value.as_number().unwrap_or_else(|| panic!("{value} is no amount")).to_string();
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = mantissa.strip_prefix('-').map_or((1, mantissa), |digits| (-1, digits));
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
    let shift = 9 + exponent.parse::<i32>().expect("an exponent") - i32::try_from(decimals.len()).expect("a few");
    let number: i64 = format!("{whole}{decimals}").parse().expect("digits");
    let power = 10_i64.pow(shift.unsigned_abs());
    sign * if shift >= 0 { number * power } else { number / power }
}
