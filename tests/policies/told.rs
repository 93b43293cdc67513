//! What the metrics and the log tell of the policy folder.

use serde_json::json;

use crate::harness::{Binary, Database, Scratch, guests, until};

/// A gate of its own, since metrics are the process's.
async fn gate_of(files: &Scratch) -> (Binary, Database, Scratch) {
    let (database, data) = (Database::migrated().await, Scratch::new());
    let text = |scratch: &Scratch| scratch.path().to_str().expect("a text").to_owned();
    let (policies, folder) = (text(files), text(&data));
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--policies", &policies, "--data-dir", &folder];
    (Binary::start(&arguments, &[("DATABASE_URL", &database.url())]), database, data)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_refused_is_in_the_metrics_too() {
    let files = guests::own_folder();
    let (gate, _database, _data) = gate_of(&files).await;
    let refused = || async {
        let metrics = gate.send("GET", "/metrics", json!(null)).await.text;
        metrics.contains("tollgate_policy_reload_total{result=\"refused\"} 1\n")
    };
    assert!(!refused().await);
    files.write("odd.wasm", "no component");
    until("the refusal is counted", refused).await;
}

/// Written beside its place and renamed, so that no look finds half of it.
fn deliver(files: &Scratch, name: &str, content: &str) {
    files.write("delivered.new", content);
    std::fs::rename(files.join("delivered.new"), files.join(name)).expect("a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_of_the_folder_counts_once_whoever_refuses_it_and_when() {
    let files = guests::own_folder();
    files.write("odd.wasm", "no component");
    let (gate, _database, _data) = gate_of(&files).await;
    let counts = |refused: u32, ok: u32| {
        let gate = &gate;
        move || async move {
            let metrics = gate.send("GET", "/metrics", json!(null)).await.text;
            [("refused", refused), ("ok", ok)].into_iter().all(|(result, count)| {
                metrics.contains(&format!("tollgate_policy_reload_total{{result=\"{result}\"}} {count}\n"))
            })
        }
    };
    assert!(counts(1, 0)().await, "what the start refused is counted");
    deliver(&files, "odd.next.wasm", "no component");
    until("a refused candidate is counted", counts(2, 0)).await;
    // A text alone, beside what is refused as before.
    deliver(&files, "standard.toml", "timeout_ms = 999\n");
    until("a changed text is counted", counts(2, 1)).await;
    deliver(&files, "odd.wasm", "another one that is no component");
    until("another refused file is counted, though the reason is the same", counts(3, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_nobody_reads_are_in_the_log_once_each() {
    let files = guests::own_folder();
    let strays = ["Odd.wasm", "standard.fixture.toml", "ghost.toml", "ghost.next.fixtures.toml"];
    for file in strays.into_iter().chain(["notes.txt", ".standard.toml.swp", "standard.previous.toml"]) {
        files.write(file, "");
    }
    let (gate, _database, _data) = gate_of(&files).await;
    for _ in 0..2 {
        gate.send("POST", "/v1/policies/reload", json!({})).await.expect_status(200);
    }
    let log = gate.interrupt().log;
    let told: Vec<_> = log.iter().filter(|line| line.contains("Nobody reads this file of the policy folder")).collect();
    assert_eq!(told.len(), strays.len(), "{told:#?}");
    for stray in strays {
        assert!(told.iter().any(|line| line.contains(&format!("\"file\":\"{stray}\""))), "{stray}: {told:#?}");
    }
    assert!(told.iter().any(|line| line.contains("did you mean \\\"standard.fixtures.toml\\\"?")), "{told:#?}");
}
