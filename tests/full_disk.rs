//! A disk that is full: whoever cannot be kept is told, nothing is torn, and with room it goes on.

use serde_json::json;

use crate::harness::{SmallDisk, llm_cost};
use crate::outages::process::Apart;

#[tokio::test(flavor = "multi_thread")]
async fn where_the_disk_is_full_the_caller_is_told_and_with_room_again_it_goes_on_with_nothing_torn() {
    let apart = Apart::off().await;
    let Some(disk) = SmallDisk::over(&apart.data, 64) else {
        println!("skipped: this user may not mount a disk; the limit of the spool has a test of its own");
        return;
    };
    let gate = apart.serve(&[]);
    // For a few records and no more.
    disk.fills_up_to(150_000);

    let mut kept = 0;
    let big = |n: usize| {
        let mut cost = llm_cost(&format!("cost-{n}"), "1");
        cost["attributes"] = json!({ "note": "x".repeat(40_000) });
        cost
    };
    let refused = loop {
        let answer = gate.send("POST", "/v1/costs", big(kept)).await;
        if answer.status != 200 {
            break answer;
        }
        kept += 1;
    };
    assert_eq!((refused.status, refused.word("/error").as_str()), (507, "spool_full"));
    assert!((1..5).contains(&kept), "{kept}");
    let refused = gate.send("POST", "/v1/costs", big(kept)).await;
    assert_eq!(refused.status, 507, "{refused:?}");

    // Room again: the same record is taken, behind those that were, and all are whole for the next process.
    disk.has_room_again();
    gate.send("POST", "/v1/costs", big(kept)).await.expect_status(200);
    gate.kill();
    let gate = apart.serve(&[]);
    gate.send("POST", "/v1/costs", llm_cost("last", "1")).await.expect_status(200);
    apart.on_again(&gate).await;
    let books = "SELECT count(*) || ' ' || sum(actual_usd)::numeric(20,2) FROM copilot_internal.cost_records";
    assert_eq!(apart.database.value(books).await, format!("{0} {0}.00", kept + 2));
    assert!(!disk.path().join("spool/1.damaged").exists(), "nothing is torn");
    let finished = gate.interrupt();
    assert_eq!(finished.code, Some(0));
    assert!(!finished.log.iter().any(|line| line.contains("damaged")), "{:?}", finished.log);
}
