//! Sequences of fixtures: spend, holds and time go on from step to step.

use crate::authoring::{policy, stderr, stdout};
use crate::harness::guests;

/// A day's budget of 10 dollars: spent, held back, and there again on the next day.
pub const SPENDS: &str = r#"
[[sequence]]
name = "a day's budget"
now = "2026-01-04T20:00:00Z"
request = { tenantId = "acme-corp", resourceType = "llm", estimatedCostUsd = "4.00" }
quotas = [{ scope = "tenant", scopeId = "acme-corp", period = "day", limitUsd = "10.00" }]

[[sequence.step]]
name = "costs less than its estimate"
actualCostUsd = "3.00"
expect = { decision = "allow" }

[[sequence.step]]
name = "goes on for a while"
after = "15m"
held = true
expect = { decision = "allow" }

[[sequence.step]]
request = { estimatedCostUsd = "3.00" }
expect = { decision = "allow" }

[[sequence.step]]
name = "only what is held stands in its way"
after = "45m"
request = { estimatedCostUsd = "0.01" }
expect = { decision = "deny", code = "capacity_held", reason = "*Current: $6.00, Requested: $0.01, Reserved: $4.00", retryAfter = 10800 }

[[sequence.step]]
name = "the next day has nothing spent and nothing held"
after = "3h"
request = { estimatedCostUsd = "10.00" }
expect = { decision = "allow" }

[[sequence.step]]
request = { estimatedCostUsd = "0.000000001" }
expect = { decision = "deny", code = "limit_exceeded", retryAfter = 86400 }

[[sequence.step]]
after = "1d"
expect = { decision = "allow" }
"#;

#[test]
fn in_a_sequence_spend_holds_and_time_go_on_from_step_to_step() {
    let folder = guests::own_folder();
    folder.write("standard.fixtures.toml", SPENDS);
    let output = policy("test", &folder, &[]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.contains("ok     a day's budget, step 4: only what is held stands in its way\n"), "{text}");
    assert!(text.ends_with("7 passed, 0 failed\n"), "{text}");
    // Without the hold there is money left for the fourth step.
    folder.write("standard.fixtures.toml", SPENDS.replace("held = true", "actualCostUsd = \"0\""));
    let text = stdout(&policy("test", &folder, &[]));
    assert!(text.contains("FAILED a day's budget, step 4: only what is held stands in its way\n"), "{text}");
    assert!(text.ends_with("6 passed, 1 failed\n"), "{text}");
}

#[test]
fn a_sequence_that_makes_no_sense_names_the_field_and_what_would_be_right() {
    let folder = guests::own_folder();
    let told = |from: &str, to: &str| {
        folder.write("standard.fixtures.toml", SPENDS.replacen(from, to, 1));
        let output = policy("test", &folder, &[]);
        stdout(&output) + &stderr(&output)
    };
    for (from, to, sentence) in [
        ("\"15m\"", "\"15\"", "a span of up to 3660 days, such as \"90s\", \"15m\", \"2h\" or \"1d\", got \"15\""),
        ("tenantId", "tenant", "request: unknown field `tenant`"),
        (
            "{ estimatedCostUsd = \"3.00\" }",
            "{ resourceType = \"e2b\" }",
            "request.resourceType: the same in all steps",
        ),
        ("limitUsd = \"10.00\"", "limitUsd = \"0\"", "quotas[0]: limitUsd: above 0"),
    ] {
        let told = told(from, to);
        assert!(told.contains(sentence), "{sentence:?} is not in {told}");
    }
}

/// Holds of a day that turn into spend, or into nothing; the last one after its day is over.
const RESERVES: &str = r#"
[[sequence]]
name = "what is held"
now = "2026-01-04T20:00:00Z"
request = { tenantId = "acme-corp", resourceType = "llm", estimatedCostUsd = "6.00" }
quotas = [{ scope = "tenant", scopeId = "acme-corp", period = "day", limitUsd = "10.00" }]

[[sequence.step]]
reservationId = "first"
expect = { decision = "allow" }

[[sequence.step]]
expect = { decision = "deny", code = "capacity_held" }

[[sequence.step]]
name = "costs less than was set aside"
after = "1m"
settle = { reservationId = "first", actualCostUsd = "4.00" }

[[sequence.step]]
reservationId = "second"
expect = { decision = "allow" }

[[sequence.step]]
release = { reservationId = "second" }

[[sequence.step]]
request = { estimatedCostUsd = "7.00" }
expect = { decision = "deny", code = "limit_exceeded", reason = "*Current: $4.00, Requested: $7.00" }

[[sequence.step]]
reservationId = "third"
expect = { decision = "allow" }

[[sequence.step]]
name = "is of the day before, and leaves the new one alone"
after = "4h"
settle = { reservationId = "third", actualCostUsd = "9.00" }

[[sequence.step]]
request = { estimatedCostUsd = "10.00" }
expect = { decision = "allow" }
"#;

#[test]
fn a_reservation_of_a_sequence_is_settled_or_released_by_a_later_step() {
    let folder = guests::own_folder();
    folder.write("standard.fixtures.toml", RESERVES);
    let output = policy("test", &folder, &[]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.contains("ok     what is held, step 3: costs less than was set aside\n"), "{text}");
    assert!(text.ends_with("9 passed, 0 failed\n"), "{text}");
    // Money that is not given back stands in the way, and so does what a release was told of too late.
    for (from, to, failed) in [
        ("actualCostUsd = \"4.00\"", "actualCostUsd = \"4.01\"", "step 4"),
        ("release = { reservationId = \"second\" }", "settle = { reservationId = \"second\", actualCostUsd = 0 }", ""),
        ("after = \"4h\"", "after = \"3h\"", "step 9"),
    ] {
        folder.write("standard.fixtures.toml", RESERVES.replacen(from, to, 1));
        let text = stdout(&policy("test", &folder, &[]));
        assert_eq!(text.contains(&format!("FAILED what is held, {failed}")), !failed.is_empty(), "{text}");
    }
}

#[test]
fn a_step_that_ends_a_reservation_which_is_none_says_so() {
    let folder = guests::own_folder();
    for (from, to, sentence) in [
        (
            "{ reservationId = \"second\" }",
            "{ reservationId = \"secnd\" }",
            "release.reservationId: \"secnd\" is no earlier step's, which are \"first\", \"second\"",
        ),
        (
            "{ reservationId = \"second\" }",
            "{ reservationId = \"first\" }",
            "release.reservationId: \"first\" has been settled already",
        ),
        (
            "reservationId = \"third\"\n",
            "reservationId = \"third\"\nactualCostUsd = 1\n",
            "actualCostUsd: what is held costs nothing yet; say it in a later step's settle",
        ),
        (
            "reservationId = \"third\"\n",
            "reservationId = \"first\"\n",
            "reservationId: \"first\" is the name of an earlier step's; choose another",
        ),
        (
            "reservationId = \"third\"\n",
            "request = { estimatedCostUsd = 100 }\nreservationId = \"third\"\n",
            "settle.reservationId: the step that asks for \"third\" was not allowed",
        ),
        ("release = {", "expect = { decision = \"allow\" }\nrelease = {", "settle, release: such a step asks nothing"),
        ("expect = { decision = \"allow\" }\n", "", "expect: missing, in a step that asks"),
        (", actualCostUsd = \"4.00\" }", " }", "missing field `actualCostUsd`"),
        ("actualCostUsd = \"4.00\"", "actual = \"4.00\"", "unknown field `actual`"),
    ] {
        folder.write("standard.fixtures.toml", RESERVES.replacen(from, to, 1));
        let output = policy("test", &folder, &[]);
        let told = stdout(&output) + &stderr(&output);
        assert_ne!(output.status.code(), Some(0), "{told}");
        assert!(told.contains(sentence), "{sentence:?} is not in {told}");
    }
}
