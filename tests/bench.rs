//! `tollgate bench` on the machine of whoever runs it.

use serde_json::Value;

use crate::harness::{Scratch, guests, tollgate};

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_is_measured_beside_a_bare_server_with_the_usual_ten_thousand_tenants() {
    let data = Scratch::new();
    let (data, policies) = (data.path().to_str().expect("a text"), guests::SHIPPED.to_str().expect("a text"));
    let only = ["bench", "--seconds", "1", "--only", "check, one", "--json"];
    let run = tollgate(&[&only[..], &["--data-dir", data, "--policies", policies]].concat(), &[]);
    let (said, why) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{why}");
    let (table, json) = said.split_once("\n[\n").expect("a table, then JSON");
    let lines: Vec<Value> = serde_json::from_str(&format!("[{json}")).expect("JSON");
    let measured = |what: &str| -> Vec<u64> {
        let lines = lines.iter().filter(|line| line["what"] == what && line["perSecond"].as_u64() > Some(0));
        lines.filter_map(|line| line["connections"].as_u64()).collect()
    };
    for what in ["bare axum handler", "check, one tenant"] {
        assert_eq!(measured(what), [1, 32, 50, 256], "{what} in {table}");
    }
}
