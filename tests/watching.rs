//! The folder under watch: what changes there is live by itself, what is half there waits, and what was good stays.

mod candidates;
mod compiling;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tollgate::policy::{Folder, Generation, Watch, Workshop};

use crate::harness::{Answer, Host, Scratch, Setup, guests, until};

/// A folder that is watched; the clock of the harness does not move, and no test waits for a look at intervals.
fn watched(folder: &Path) -> (Arc<Folder>, Watch) {
    let folder = guests::open(folder.to_owned());
    let clock = tollgate::clock::Clock::manual(crate::harness::instant(crate::harness::NOON));
    let watch = Watch::start(folder.clone(), clock).expect("a thread");
    (folder, watch)
}

fn digest(generation: &Generation, name: &str) -> Option<String> {
    let status = generation.statuses().into_iter().find(|status| status.name == name)?;
    Some(status.serving?.digest.to_string())
}

fn error(generation: &Generation, name: &str) -> Option<String> {
    generation.statuses().into_iter().find(|status| status.name == name)?.last_error.map(|error| error.to_string())
}

fn of_the_tests(policy: &str) -> Vec<u8> {
    fs::read(guests::OF_THE_TESTS.join(format!("{policy}.wasm"))).expect("a built policy")
}

fn digest_of(policy: &str) -> String {
    tollgate::policy::engine::digest(&of_the_tests(policy))
}

/// Before the folder is looked at anyway, which is every 30 seconds: something was seen.
const BEFORE_THE_NEXT_LOOK: Duration = Duration::from_secs(20);

async fn until_live(folder: &Folder, name: &str, wanted: Option<String>) {
    let live = until("it is live", || async { digest(&folder.generation(), name) == wanted });
    let seen = tokio::time::timeout(BEFORE_THE_NEXT_LOOK, live).await;
    assert!(seen.is_ok(), "nobody saw that {name} is {wanted:?} now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_a_replaced_and_a_removed_file_take_effect_by_themselves() {
    let files = guests::own_folder();
    let (folder, _watch) = watched(files.path());
    guests::install(&files, "every-second-user", "odd", guests::PATIENT);
    until_live(&folder, "odd", Some(digest_of("every-second-user"))).await;
    // As editors and deployments do it: written beside, and renamed.
    files.write("odd.wasm.new", of_the_tests("hostile"));
    fs::rename(files.join("odd.wasm.new"), files.join("odd.wasm")).expect("a file");
    until_live(&folder, "odd", Some(digest_of("hostile"))).await;
    fs::remove_file(files.join("odd.wasm")).expect("a file");
    until_live(&folder, "odd", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_link_as_in_kubernetes_and_a_folder_made_again_are_seen() {
    let root = Scratch::new();
    let dir = root.join("policies");
    let fill = |version: &str, policy: &str| {
        let version = dir.join(version);
        fs::create_dir_all(&version).expect("a folder");
        for file in ["standard.wasm", "standard.toml", "standard.fixtures.toml"] {
            fs::copy(guests::SHIPPED.join(file), version.join(file)).expect("a built policy");
        }
        fs::write(version.join("odd.toml"), guests::PATIENT).expect("a file");
        fs::write(version.join("odd.wasm"), of_the_tests(policy)).expect("a file");
    };
    let point = |version: &str| {
        symlink(version, dir.join("..data_tmp")).expect("a link");
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("a link");
    };
    let link = || {
        for file in ["standard.wasm", "standard.toml", "standard.fixtures.toml", "odd.wasm", "odd.toml"] {
            symlink(format!("..data/{file}"), dir.join(file)).expect("a link");
        }
    };
    fill("..1", "every-second-user");
    point("..1");
    link();
    let (folder, _watch) = watched(&dir);
    assert_eq!(digest(&folder.generation(), "odd"), Some(digest_of("every-second-user")));
    fill("..2", "hostile");
    point("..2");
    until_live(&folder, "odd", Some(digest_of("hostile"))).await;
    fs::remove_dir_all(&dir).expect("a folder");
    fill("..3", "every-second-user");
    point("..3");
    link();
    until_live(&folder, "odd", Some(digest_of("every-second-user"))).await;
    assert!(digest(&folder.generation(), "standard").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_missing_for_a_moment_serves_on() {
    let files = guests::own_folder();
    guests::install(&files, "every-second-user", "odd", guests::PATIENT);
    let folder = guests::open(files.path().to_owned());
    let before = folder.generation();
    fs::rename(files.join("odd.wasm"), files.join("odd.away")).expect("a file");
    let looking = {
        let folder = folder.clone();
        tokio::task::spawn_blocking(move || folder.reload(crate::harness::instant(crate::harness::NOON)))
    };
    until("the first look", || async { !Arc::ptr_eq(&folder.generation(), &before) }).await;
    assert_eq!(digest(&folder.generation(), "odd"), Some(digest_of("every-second-user")));
    fs::rename(files.join("odd.away"), files.join("odd.wasm")).expect("a file");
    let generation = looking.await.expect("no panic").expect("a folder");
    assert_eq!(digest(&generation, "odd"), Some(digest_of("every-second-user")));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_stray_files_and_a_pipe_are_in_nobodys_way() {
    let files = guests::own_folder();
    for n in 0..10_000 {
        files.write(&format!("stray-{n}.txt"), "");
    }
    nix::unistd::mkfifo(&files.join("pipe.wasm"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let (folder, _watch) = watched(files.path());
    assert_eq!(error(&folder.generation(), "pipe").as_deref(), Some("pipe.wasm: not a regular file"));
    guests::install(&files, "every-second-user", "odd", guests::PATIENT);
    until_live(&folder, "odd", Some(digest_of("every-second-user"))).await;
}

fn workshop(data: &Scratch) -> Workshop {
    Workshop { last_good: Some(data.join("last-good")), ..guests::workshop() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_beside_broken_files_serves_the_last_good_versions() {
    let (files, data) = (guests::own_folder(), Scratch::new());
    guests::install(&files, "every-second-user", "odd", guests::PATIENT);
    let good = digest(&guests::open_with(files.path().to_owned(), workshop(&data)).generation(), "standard");
    files.write("odd.wasm", "no component");
    files.write("odd.toml", "nonsense");
    files.write("standard.wasm", "no component");
    let policies = guests::open_with(files.path().to_owned(), workshop(&data));
    assert_eq!(digest(&policies.generation(), "standard"), good);
    assert_eq!(error(&policies.generation(), "standard").as_deref(), Some("not a WebAssembly component"));
    let host = Setup { policies, ..Setup::default() }.start().await;
    host.tenant("acme-corp", Some("odd"), None).await;
    let ask =
        |user: &'static str| host.check(json!({ "tenantId": "acme-corp", "userId": user, "resourceType": "llm" }));
    ask("u-1").await.expect_status(200);
    assert_eq!(ask("u-2").await.expect_status(403).at("/code"), "even_user");
    // What was kept is as good as its checksum.
    let kept = fs::read_dir(data.join("last-good")).expect("a folder").flatten().next().expect("one folder").path();
    let mut bytes = fs::read(kept.join("standard.good")).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(kept.join("standard.good"), bytes).expect("a file");
    let refused = Folder::open(files.path().to_owned(), workshop(&data), crate::harness::instant(crate::harness::NOON));
    let message = refused.err().expect("no start").to_string();
    assert_eq!(message, "standard.wasm: not a WebAssembly component");
    // Another folder's last good versions are not this one's.
    let other = Scratch::new();
    other.write("standard.wasm", "no component");
    assert!(
        Folder::open(other.path().to_owned(), workshop(&data), crate::harness::instant(crate::harness::NOON)).is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_good_and_bad_files_come_and_go_no_request_fails_and_every_answer_names_a_known_digest() {
    let rounds: usize = std::env::var("TOLLGATE_TEST_RELOADS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let files = guests::own_folder();
    guests::install(&files, "every-second-user", "odd", guests::PATIENT);
    let (folder, watch) = watched(files.path());
    let host = Arc::new(Setup { policies: folder.clone(), ..Setup::default() }.start().await);
    host.tenant("acme-corp", Some("odd"), None).await;
    let known = ["every-second-user", "hostile"].map(|policy| json!(digest_of(policy)));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (host, known, stopped) = (host.clone(), known.clone(), stopped.clone());
            tokio::spawn(async move { ask_until(&host, &known, &stopped).await })
        })
        .collect();
    for round in 0..rounds {
        match round % 3 {
            0 => guests::install(&files, "hostile", "odd", guests::PATIENT),
            1 => files.write("odd.wasm", format!("broken {round}")),
            _ => guests::install(&files, "every-second-user", "odd", guests::PATIENT),
        }
        watch.look();
        let reloaded = folder.clone();
        tokio::task::spawn_blocking(move || reloaded.reload(crate::harness::instant(crate::harness::NOON)))
            .await
            .expect("no panic")
            .expect("a folder");
        let expected = if round % 3 == 2 { &known[0] } else { &known[1] };
        assert_eq!(&json!(digest(&folder.generation(), "odd")), expected, "round {round}");
        assert_eq!(error(&folder.generation(), "odd").is_some(), round % 3 == 1, "round {round}");
    }
    stop.send(true).expect("callers");
    for caller in callers {
        assert!(caller.await.expect("no failed request") > 0);
    }
}

/// Asks without a pause; every request is allowed, by a policy that is known.
async fn ask_until(host: &Host, known: &[Value], stopped: &tokio::sync::watch::Receiver<bool>) -> usize {
    let mut asked = 0;
    while !*stopped.borrow() {
        let body = json!({ "tenantId": "acme-corp", "userId": "u-1", "resourceType": "llm" });
        let answer = Answer::of(host.request("POST", "/v1/check").json(&body)).await.expect_status(200);
        assert!(known.contains(&answer.at("/policy/digest")), "{}", answer.text);
        asked += 1;
    }
    asked
}
