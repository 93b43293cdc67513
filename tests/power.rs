//! The embedded store: ends with its gate, survives `kill -9`, and is found again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::harness::{Binary, Scratch, guests, llm, llm_cost, tollgate, until};

/// A data directory of a test's own, and where its cluster lies.
struct Data {
    folder: Scratch,
    cluster: PathBuf,
}

impl Drop for Data {
    fn drop(&mut self) {
        // Where the server's user cannot enter the folder, the cluster is somewhere else.
        if !self.cluster.starts_with(self.folder.path())
            && let Some(elsewhere) = self.cluster.parent().filter(|parent| parent.starts_with("/var/lib/tollgate"))
        {
            let _ = fs::remove_dir_all(elsewhere);
        }
    }
}

fn serve(folder: &Scratch) -> Binary {
    let (data, policies) = (folder.join("data"), guests::SHIPPED.to_str().expect("a text"));
    let data = data.to_str().expect("a text");
    Binary::start(&["serve", "--listen", "127.0.0.1:0", "--data-dir", data, "--policies", policies], &[])
}

/// Where the gate said that its store is, and whether it is new.
fn store(gate: &Binary) -> (PathBuf, String) {
    let line = gate.said.lines().find_map(|line| line.trim().strip_prefix("store ")).unwrap_or_default();
    let place = line.split_once(" in ").and_then(|(_, place)| place.trim_end_matches(')').split_once(" ("));
    let (cluster, age) = place.unwrap_or_else(|| panic!("{}", gate.said));
    (cluster.into(), age.to_owned())
}

/// The servers that work on a cluster, without the children that serve their connections: until it has
/// named itself, a child has its server's command line.
fn servers(cluster: &Path) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("the processes").flatten();
    let works_on_it = |line: &str| line.contains(&format!("{}\0", cluster.display())) && line.contains("postgres");
    let processes: Vec<_> = entries
        .filter_map(|entry| {
            let line = fs::read_to_string(entry.path().join("cmdline")).ok().filter(|line| works_on_it(line))?;
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned();
            Some((entry.file_name().into_string().ok()?, parent, line))
        })
        .collect();
    let is_child = |parent: &String| processes.iter().any(|(id, ..)| id == parent);
    processes.iter().filter(|(_, parent, _)| !is_child(parent)).map(|(.., line)| line.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_gate_has_answered_is_there_after_the_next_start() {
    let folder = Scratch::new();
    let gate = serve(&folder);
    let (cluster, age) = store(&gate);
    let data = Data { folder, cluster };
    assert_eq!(age, "new");
    assert_eq!(servers(&data.cluster).len(), 1);
    gate.send("PUT", "/v1/quotas/tenant/acme-corp/llm/lifetime", json!({ "limitUsd": 50 })).await.expect_status(201);
    gate.send("POST", "/v1/costs", llm_cost("c-1", "48.50")).await.expect_status(200);
    gate.kill();

    let gate = serve(&data.folder);
    assert_eq!(store(&gate), (data.cluster.clone(), "found".to_owned()));
    let denied = gate.send("POST", "/v1/check", llm("2.00")).await.expect_status(429);
    assert!(denied.text.contains(r#""currentSpendUsd":48.50,"#), "{}", denied.text);
    let again = gate.send("POST", "/v1/costs", llm_cost("c-1", "48.50")).await.expect_status(200);
    assert_eq!(again.at("/duplicate"), true);

    // A command beside the gate uses the gate's own store.
    let directory = data.folder.join("data");
    let listed = tollgate(&["quota", "list", "--json", "--data-dir", directory.to_str().expect("a text")], &[]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains(r#""currentSpendUsd": 48.50,"#), "{listed:?}");

    // Ctrl-C ends both.
    let finished = gate.interrupt();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    assert_eq!(servers(&data.cluster), [""; 0]);
    assert!(!data.cluster.join("postmaster.pid").exists());

    // And a command without a gate starts the store for itself.
    let listed = tollgate(&["quota", "list", "--json", "--data-dir", directory.to_str().expect("a text")], &[]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains(r#""currentSpendUsd": 48.50,"#), "{listed:?}");
    assert_eq!(servers(&data.cluster), [""; 0]);
}

#[test]
fn a_store_is_created_by_what_makes_a_gate_ready_which_says_so_and_by_nothing_else() {
    let folder = Scratch::new();
    let data = folder.join("data");
    let run = |arguments: &[&str]| {
        let output = tollgate(&[arguments, &["--data-dir", data.to_str().expect("a text")]].concat(), &[]);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a text");
        (text(output.stdout), text(output.stderr), output.status.code())
    };
    let policy = guests::SHIPPED.join("standard.wasm");
    for arguments in [
        &["quota", "list"][..],
        &["quota", "delete", "tenant", "acme-corp", "llm", "day"],
        &["quota", "override", "tenant", "acme-corp", "llm", "day", "--end"],
        &["tenant", "set-tier", "acme-corp", "pro"],
        &["tenant", "offboard", "acme-corp"],
        &["tenant", "show", "acme-corp"],
        &["tenant", "list"],
        &["decision", "list"],
        &["decision", "explain", "019b88e0-ea00-743b-a3d8-e453e2d72f63"],
        &["alert", "list"],
        &["policy", "replay", policy.to_str().expect("a text")],
    ] {
        let (shown, said, code) = run(arguments);
        assert_eq!((shown.as_str(), code), ("", Some(2)), "{arguments:?}: {said}");
        let error = format!("error: no store in {} yet\nhint: `tollgate dev`, `serve` and `migrate`", data.display());
        assert!(said.starts_with(&error) && said.contains("--data-dir") && said.contains("DATABASE_URL"), "{said}");
        assert!(!data.exists(), "{arguments:?}");
    }
    let (shown, said, code) = run(&["quota", "set", "tenant", "acme-corp", "llm", "day", "1"]);
    assert_eq!((shown.as_str(), code), ("Created tenant acme-corp llm: $1.00 a day\n", Some(0)), "{said}");
    let cluster = said.strip_prefix("Created a store, an embedded PostgreSQL in ").expect("that it was created").trim();
    let data = Data { cluster: cluster.into(), folder };
    assert!(data.cluster.join("PG_VERSION").exists() && servers(&data.cluster).is_empty(), "{said}");
    for arguments in [&["migrate"][..], &["tenant", "onboard", "acme-corp", "--tier", "pro"], &["quota", "list"]] {
        let (_, said, code) = run(arguments);
        assert_eq!((said.as_str(), code), ("", Some(0)), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_builds_the_policies_serves_and_says_what_to_try_next() {
    let folder = Scratch::new();
    let sources = guests::repository().join("policies");
    let (data, sources) = (folder.join("data"), sources.to_str().expect("a text"));
    // Cargo needs to know whose it is.
    let names = ["HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"];
    let values: Vec<_> = names.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?))).collect();
    let environment: Vec<_> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let arguments =
        ["dev", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().expect("a text"), "--sources", sources];
    let gate = Binary::start(&arguments, &environment);
    let (cluster, _) = store(&gate);
    let data = Data { folder, cluster };
    assert!(gate.said.contains("  policies  enterprise, free, pro, standard in "), "{}", gate.said);
    // What it tells to try.
    gate.send("PUT", "/v1/quotas/tenant/acme-corp/llm/day", json!({ "limitUsd": 1 })).await.expect_status(201);
    gate.send("POST", "/v1/check", llm("2")).await.expect_status(429);
    let finished = gate.interrupt();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    for fragment in [
        "Try a denial, in another terminal:",
        "curl -X PUT http://127.0.0.1:",
        "/v1/check -H 'content-type: application/json'",
        "Stopped.",
    ] {
        assert!(finished.said.contains(fragment), "{}", finished.said);
    }
    assert_eq!(servers(&data.cluster), [""; 0]);
}

/// The id of the server that works on a cluster, in its own words.
fn server(cluster: &Path) -> Option<i32> {
    fs::read_to_string(cluster.join("postmaster.pid")).ok()?.lines().next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_killed_alone_is_started_again_and_what_came_meanwhile_is_in_its_books() {
    let folder = Scratch::new();
    let gate = serve(&folder);
    let data = Data { folder, cluster: store(&gate).0 };
    gate.send("PUT", "/v1/quotas/tenant/acme-corp/llm/lifetime", json!({ "limitUsd": 50 })).await.expect_status(201);
    for (cost, signal) in [("c-1", Signal::SIGKILL), ("c-2", Signal::SIGQUIT)] {
        let killed = server(&data.cluster).expect("a running server");
        kill(Pid::from_raw(killed), signal).expect("a running server");
        let begun = Instant::now();
        gate.send("POST", "/v1/costs", llm_cost(cost, "2")).await.expect_status(200);
        let is_back = || async {
            server(&data.cluster).is_some_and(|server| server != killed)
                && gate.send("GET", "/readyz", json!(null)).await.at("/degraded") == json!(false)
        };
        until("another server has taken its place", is_back).await;
        println!("{signal}: back after {} ms", begun.elapsed().as_millis());
        // A gate that has not noticed anything finds out by this very question, and answers it without the store.
        let is_there = || async {
            gate.send("POST", "/v1/costs", llm_cost(cost, "2")).await.expect_status(200).at("/duplicate") == true
        };
        until("it is in its books", is_there).await;
    }
    let denied = gate.send("POST", "/v1/check", llm("46.01")).await.expect_status(429);
    assert!(denied.text.contains(r#""currentSpendUsd":4.00,"#), "{}", denied.text);
    assert_eq!(gate.interrupt().code, Some(0));
    assert_eq!(servers(&data.cluster), [""; 0]);
}
