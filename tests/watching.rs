//! The folder under watch: what changes there is live by itself, what is half there waits, and what was good stays.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tollgate::policy::compile::CompileLimits;
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

/// How often the program that compiles was started.
fn counting(data: &Scratch) -> (Workshop, impl Fn() -> usize) {
    use std::os::unix::fs::PermissionsExt as _;
    let (program, count) = (data.join("counting"), data.join("count"));
    let script = format!("#!/bin/sh\necho x >> {}\nexec {} \"$@\"\n", count.display(), env!("CARGO_BIN_EXE_tollgate"));
    fs::write(&program, script).expect("a file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
    let workshop = Workshop {
        program: Some(program),
        compiled: Some(data.join("compiled")),
        last_good: Some(data.join("last-good")),
        ..Workshop::default()
    };
    (workshop, move || fs::read_to_string(&count).map_or(0, |text| text.lines().count()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compiled_is_kept_and_what_was_altered_is_compiled_again() {
    let (files, data) = (guests::own_folder(), Scratch::new());
    let open = || {
        let (workshop, count) = counting(&data);
        drop(guests::open_with(files.path().to_owned(), workshop));
        count()
    };
    assert_eq!([open(), open()], [1, 1]);
    for entry in fs::read_dir(data.join("compiled")).expect("a folder").flatten() {
        let mut code = fs::read(entry.path()).expect("a file");
        let middle = code.len() / 2;
        code[middle] ^= 1;
        fs::write(entry.path(), code).expect("a file");
    }
    assert_eq!([open(), open()], [2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_will_not_compile_is_compiled_once_and_logged_once() {
    let (files, data) = (guests::own_folder(), Scratch::new());
    let (workshop, count) = counting(&data);
    let folder = guests::open_with(files.path().to_owned(), workshop);
    let before = count();
    let broken = &of_the_tests("hostile")[..9_000];
    files.write("odd.wasm", broken);
    for _ in 0..5 {
        let generation = folder.reload(crate::harness::instant(crate::harness::NOON)).expect("a folder");
        assert!(error(&generation, "odd").is_some_and(|error| error.starts_with("does not compile")));
    }
    assert_eq!(count(), before + 1);
}

/// A component with one function of `size` bytes: additions, one after the other.
fn bomb(size: usize) -> Vec<u8> {
    fn leb(mut value: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value > 0x7f {
            bytes.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
            value >>= 7;
        }
        bytes.push(u8::try_from(value).expect("seven bits"));
        bytes
    }
    let section = |id: u8, content: &[u8]| [&[id][..], &leb(content.len()), content].concat();
    // (func (param i32) (result i32) local.get 0 (local.get 0 i32.add)… end)
    let mut code = vec![0, 0x20, 0];
    code.extend([0x20, 0, 0x6a].repeat(size / 3));
    code.push(0x0b);
    let function = [&[1][..], &leb(code.len()), &code].concat();
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, b"\x01\x60\x01\x7f\x01\x7f"),
        section(3, b"\x01\0"),
        section(10, &function),
    ]
    .concat();
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, &module)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compile_bomb_ends_in_the_child_with_a_sentence_and_the_host_goes_on() {
    let files = guests::own_folder();
    let tight = |memory_mib, cpu_seconds, wall| Workshop {
        limits: CompileLimits { memory_mib, cpu_seconds, wall },
        ..guests::workshop()
    };
    files.write("odd.wasm", bomb(3 << 20));
    let patient = Duration::from_mins(2);
    for (workshop, wanted) in [
        (tight(4_096, 1, patient), "takes more than 1 s of processor time to compile; make it smaller"),
        (tight(300, 60, patient), "takes more than 300 MiB of memory to compile; make it smaller"),
        (tight(4_096, 60, Duration::from_millis(300)), "not compiled within 300 ms"),
    ] {
        // Compiled before, so that the limits are there for the bomb alone.
        drop(guests::open(guests::SHIPPED.clone()));
        let folder = guests::open_with(files.path().to_owned(), workshop);
        assert_eq!(error(&folder.generation(), "odd").as_deref(), Some(wanted));
        assert!(digest(&folder.generation(), "standard").is_some());
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_asked_in_shadow_and_where_it_disagrees_is_counted_and_stored() {
    let files = guests::own_folder();
    guests::install(&files, "every-second-user", "odd", guests::PATIENT);
    // It has no operator's file of its own: that of the live policy counts, which knows no settings.
    files.write("odd.next.wasm", of_the_tests("hostile"));
    let policies = guests::open(files.path().to_owned());
    let host = Setup { policies, ..Setup::default() }.start().await;
    host.tenant("acme-corp", Some("odd"), None).await;
    let candidate = |answer: &Answer| {
        let policies = answer.at("/policies");
        let all = policies.as_array().cloned().unwrap_or_default();
        all.into_iter().find(|policy| policy["name"] == "odd").expect("the policy")["candidate"].clone()
    };
    let mut denied = String::new();
    for n in 1..=4 {
        let user = format!("u-{n}");
        let body = json!({ "tenantId": "acme-corp", "userId": user, "resourceType": "llm" });
        let answer = host.check(body.clone()).await.expect_status(if n % 2 == 1 { 200 } else { 403 });
        assert_eq!(answer.at("/policy/name"), if n % 2 == 1 { json!("odd") } else { Value::Null });
        if n == 2 {
            denied = answer.word("/decisionId");
        }
        host.post("/v1/reservations", body).await.expect_status(if n % 2 == 1 { 201 } else { 403 });
    }
    // Others have no candidate.
    host.check(crate::harness::llm("2.00")).await;
    host.tenant("globex", None, None).await;
    host.check(json!({ "tenantId": "globex", "resourceType": "llm" })).await.expect_status(200);
    until("9 compared", || async { candidate(&host.get("/v1/policies").await)["compared"] == 9 }).await;
    let shown = candidate(&host.get("/v1/policies").await);
    assert_eq!((&shown["disagreed"], &shown["dropped"], &shown["lastError"]), (&json!(5), &json!(0), &Value::Null));
    assert_eq!((&shown["digest"], &shown["since"]), (&json!(digest_of("hostile")), &json!(crate::harness::NOON)));
    let stored = "SELECT count(*) FROM copilot_internal.policy_disagreements WHERE live_outcome = 'denied'
                  AND live_code = 'even_user' AND candidate_outcome = 'allowed' AND policy_name = 'odd'";
    until("5 stored", || async { host.database.value(stored).await == "5" }).await;
    let one =
        format!("SELECT candidate_digest FROM copilot_internal.policy_disagreements WHERE decision_id = '{denied}'");
    assert_eq!(host.database.value(&one).await, digest_of("hostile"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_fails_hurts_nobody_and_says_how() {
    let files = guests::own_folder();
    files.write("standard.next.wasm", of_the_tests("hostile"));
    files.write("standard.next.toml", "timeout_ms = 1000\n[settings]\nbehaviour = \"panic\"\n");
    files.write("standard.next.fixtures.toml", "");
    let host = Setup { policies: guests::open(files.path().to_owned()), ..Setup::default() }.start().await;
    host.check(crate::harness::llm("2.00")).await.expect_status(200);
    let at = "/policies/0/candidate/lastError/kind";
    until("its failure", || async { host.get("/v1/policies").await.at(at) == "trap" }).await;
    let stored = "SELECT count(*) FROM copilot_internal.policy_disagreements
                  WHERE candidate_outcome = 'failed' AND candidate_code = 'trap'";
    until("it is stored", || async { host.database.value(stored).await == "1" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_promoted_by_its_digest_and_a_rollback_puts_back_what_was_live() {
    let files = guests::own_folder();
    guests::install(&files, "every-second-user", "odd", guests::PATIENT);
    let host = Setup { policies: guests::open(files.path().to_owned()), ..Setup::default() }.start().await;
    host.tenant("acme-corp", Some("odd"), None).await;
    let ask = || host.check(json!({ "tenantId": "acme-corp", "userId": "u-2", "resourceType": "llm" }));
    let change = |what: &'static str, body: Value| {
        let host = &host;
        async move { host.post(&format!("/v1/policies/odd/{what}"), body).await }
    };
    let none = change("promote", json!({})).await.expect_status(409);
    assert_eq!((none.at("/error"), none.word("/message").contains("odd.next.wasm")), (json!("policy_conflict"), true));
    change("rollback", json!({})).await.expect_status(409);
    files.write("odd.next.wasm", "no component");
    let refused = change("promote", json!({})).await.expect_status(409);
    assert!(refused.word("/message").contains("was refused: not a WebAssembly component"), "{}", refused.text);
    files.write("odd.next.wasm", of_the_tests("hostile"));
    files.write("odd.next.toml", "timeout_ms = 1000\n[settings]\nbehaviour = \"count\"\n");
    let other = change("promote", json!({ "digest": digest_of("every-second-user") })).await.expect_status(409);
    assert!(other.word("/message").starts_with("the candidate for odd is sha256:"), "{}", other.text);
    assert_eq!(ask().await.expect_status(403).at("/code"), "even_user");
    change("promote", json!({ "digest": digest_of("hostile") })).await.expect_status(200);
    assert_eq!(ask().await.expect_status(403).at("/code"), "counted");
    assert!(!files.join("odd.next.wasm").exists() && !files.join("odd.next.toml").exists());
    // There and back again, with the texts that belong to each.
    change("rollback", json!({ "digest": digest_of("hostile") })).await.expect_status(409);
    change("rollback", json!({})).await.expect_status(200);
    assert_eq!(ask().await.expect_status(403).at("/code"), "even_user");
    change("rollback", json!({})).await.expect_status(200);
    assert_eq!(ask().await.expect_status(403).at("/code"), "counted");
    // The command does the same to the folder, and the host sees it.
    let folder = files.path().to_str().expect("a text");
    let output = crate::harness::tollgate(&["policy", "rollback", "odd", "--policies", folder], &[]);
    assert!(output.status.success(), "{output:?}");
    Answer::of(host.request("POST", "/v1/policies/reload")).await.expect_status(200);
    assert_eq!(ask().await.expect_status(403).at("/code"), "even_user");
    let output = crate::harness::tollgate(&["policy", "promote", "odd", "--policies", folder], &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("odd has no candidate"), "{output:?}");
    assert_eq!(output.status.code(), Some(2));
}
