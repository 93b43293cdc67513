//! Promotions and rollbacks beside trouble: a refusal changes nothing, what served can be gone back to, and a broken file
//! is in nobody's way but its own.

use std::collections::BTreeMap;
use std::fs;
use std::process::Output;

use serde_json::json;
use tollgate::policy::Workshop;

use crate::authoring::{stderr, stdout};
use crate::harness::{Answer, Host, Scratch, Setup, guests, tollgate};

fn of_the_tests(policy: &str) -> Vec<u8> {
    fs::read(guests::OF_THE_TESTS.join(format!("{policy}.wasm"))).expect("a built policy")
}

/// What ends in the middle.
fn truncated(policy: &str) -> Vec<u8> {
    of_the_tests(policy)[..9_000].to_vec()
}

/// The folder's files, whole.
fn contents(folder: &Scratch) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder.path()).expect("a folder").flatten();
    files
        .map(|file| (file.file_name().into_string().expect("a text"), fs::read(file.path()).expect("a file")))
        .collect()
}

/// `tollgate policy WHAT NAME`, of this folder and this data directory.
fn change(what: &str, name: &str, folder: &Scratch, data: &Scratch) -> Output {
    let [folder, data] = [folder, data].map(|scratch| scratch.path().to_str().expect("a text"));
    tollgate(&["policy", what, name, "--policies", folder, "--data-dir", data], &[])
}

/// A host that keeps last good versions, in which `acme-corp` has the tier `odd`.
async fn host(folder: &Scratch, data: &Scratch) -> Host {
    let workshop = Workshop { last_good: Some(data.join("last-good")), ..guests::workshop() };
    let policies = guests::open_with(folder.path().to_owned(), workshop);
    let host = Setup { policies, ..Setup::default() }.start().await;
    host.tenant("acme-corp", Some("odd"), None).await;
    host
}

async fn ask(host: &Host) -> Answer {
    host.check(json!({ "tenantId": "acme-corp", "userId": "u-2", "resourceType": "llm" })).await
}

/// `odd` denies every second user.
fn folder() -> Scratch {
    let folder = guests::own_folder();
    guests::install(&folder, "every-second-user", "odd", guests::PATIENT);
    folder
}

#[test]
fn a_broken_standard_policy_is_in_the_way_of_no_command() {
    let (folder, data) = (folder(), Scratch::new());
    for part in ["wasm", "toml", "fixtures.toml"] {
        fs::copy(folder.join(&format!("standard.{part}")), folder.join(&format!("standard.previous.{part}")))
            .expect("a file");
    }
    folder.write("standard.wasm", truncated("hostile"));
    folder.write("odd.next.wasm", of_the_tests("hostile"));
    let promoted = change("promote", "odd", &folder, &data);
    assert!(promoted.status.success(), "{}", stderr(&promoted));
    assert_eq!(fs::read(folder.join("odd.wasm")).expect("a file"), of_the_tests("hostile"));
    let back = change("rollback", "odd", &folder, &data);
    assert!(back.status.success(), "{}", stderr(&back));
    assert_eq!(fs::read(folder.join("odd.wasm")).expect("a file"), of_the_tests("every-second-user"));
    let back = change("rollback", "standard", &folder, &data);
    assert!(back.status.success(), "{}", stderr(&back));
    assert!(stdout(&back).starts_with("standard is sha256:"), "{}", stdout(&back));
    let standard = fs::read(guests::SHIPPED.join("standard.wasm")).expect("a built policy");
    assert_eq!(fs::read(folder.join("standard.wasm")).expect("a file"), standard);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_serves_in_the_place_of_a_broken_file_is_what_a_promotion_keeps() {
    let (folder, data) = (folder(), Scratch::new());
    let host = host(&folder, &data).await;
    assert_eq!(ask(&host).await.expect_status(403).at("/code"), "even_user");
    folder.write("odd.wasm", truncated("every-second-user"));
    folder.write("odd.next.wasm", of_the_tests("hostile"));
    host.post("/v1/policies/odd/promote", json!({})).await.expect_status(200);
    ask(&host).await.expect_status(200);
    assert_eq!(fs::read(folder.join("odd.previous.wasm")).expect("a file"), of_the_tests("every-second-user"));
    host.post("/v1/policies/odd/rollback", json!({})).await.expect_status(200);
    assert_eq!(ask(&host).await.expect_status(403).at("/code"), "even_user");
    // The other way round: what served before the rollback can be come back to, though its file is broken.
    folder.write("odd.wasm", truncated("hostile"));
    host.post("/v1/policies/odd/rollback", json!({})).await.expect_status(200);
    assert_eq!(fs::read(folder.join("odd.previous.wasm")).expect("a file"), of_the_tests("every-second-user"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_takes_what_serves_from_the_data_directory_and_refuses_where_it_cannot_know() {
    let (folder, data) = (folder(), Scratch::new());
    let host = host(&folder, &data).await;
    folder.write("odd.wasm", truncated("every-second-user"));
    folder.write("odd.next.wasm", of_the_tests("hostile"));
    let before = contents(&folder);
    let elsewhere = change("promote", "odd", &folder, &Scratch::new());
    assert_eq!(elsewhere.status.code(), Some(2), "{}", stdout(&elsewhere));
    assert!(stderr(&elsewhere).contains("name a host's data directory with --data-dir"), "{}", stderr(&elsewhere));
    assert!(contents(&folder) == before, "the folder is as it was");
    let promoted = change("promote", "odd", &folder, &data);
    assert!(promoted.status.success(), "{}", stderr(&promoted));
    assert_eq!(fs::read(folder.join("odd.previous.wasm")).expect("a file"), of_the_tests("every-second-user"));
    Answer::of(host.request("POST", "/v1/policies/reload")).await.expect_status(200);
    ask(&host).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_change_leaves_the_folder_as_it_was() {
    let (folder, data) = (folder(), Scratch::new());
    folder.write("odd.previous.wasm", truncated("hostile"));
    folder.write("odd.previous.toml", guests::PATIENT);
    folder.write("odd.next.wasm", truncated("hostile"));
    let before = contents(&folder);
    let host = host(&folder, &data).await;
    for (what, file) in [("rollback", "odd.previous.wasm"), ("promote", "odd.next.wasm")] {
        let refused = host.post(&format!("/v1/policies/odd/{what}"), json!({})).await.expect_status(409);
        assert!(refused.word("/message").starts_with(&format!("{file} was refused: does not compile")), "{refused:?}");
        let refused = change(what, "odd", &folder, &data);
        assert_eq!(refused.status.code(), Some(1), "{}", stdout(&refused));
        assert!(stderr(&refused).contains(&format!("{file} was refused: does not compile")), "{}", stderr(&refused));
        assert!(contents(&folder) == before, "{what}: the folder is as it was");
    }
    assert_eq!(ask(&host).await.expect_status(403).at("/code"), "even_user");
}

#[test]
fn a_name_that_is_no_tier_leads_out_of_no_folder() {
    let (folder, data) = (folder(), Scratch::new());
    let (inner, outer) = (folder.join("inner"), "../odd");
    fs::create_dir(&inner).expect("a folder");
    folder.write("odd.previous.wasm", of_the_tests("hostile"));
    let inner = inner.to_str().expect("a text");
    let data = data.path().to_str().expect("a text");
    for what in ["rollback", "promote"] {
        let refused = tollgate(&["policy", what, outer, "--policies", inner, "--data-dir", data], &[]);
        assert_eq!(refused.status.code(), Some(2), "{}", stdout(&refused));
        assert!(stderr(&refused).starts_with("error: NAME: "), "{}", stderr(&refused));
    }
    assert_eq!(fs::read(folder.join("odd.wasm")).expect("a file"), of_the_tests("every-second-user"));
}

#[test]
fn the_way_back_from_a_tiers_first_policy_is_said() {
    let (folder, data) = (guests::own_folder(), Scratch::new());
    folder.write("odd.next.wasm", of_the_tests("hostile"));
    folder.write("odd.next.toml", guests::PATIENT);
    assert!(change("promote", "odd", &folder, &data).status.success());
    let refused = change("rollback", "odd", &folder, &data);
    assert_eq!(refused.status.code(), Some(2), "{}", stdout(&refused));
    let hint = "remove odd.wasm, and the standard policy decides for the tier again";
    assert!(stderr(&refused).contains(hint), "{}", stderr(&refused));
}
