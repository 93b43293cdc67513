//! `wasi = "sandbox"`: WASI is there to import, nothing is in it, and the same facts give the same verdict.

use std::fmt::Write as _;

use serde_json::json;

use crate::harness::{Answer, Binary, Database, Host, Scratch, Setup, guests};
use crate::hostile::component::Module;

const SANDBOX: &str = "timeout_ms = 1000\nwasi = \"sandbox\"\n";

/// Of WASI 0.2.0, what the guests here use.
const WASI: [&str; 4] = [
    "package wasi:io@0.2.0;
     interface error { resource error; }
     interface poll {
       resource pollable { ready: func() -> bool; block: func(); }
       poll: func(in: list<borrow<pollable>>) -> list<u32>;
     }
     interface streams {
       use error.{error};
       variant stream-error { last-operation-failed(error), closed }
       resource output-stream {
         blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
         write-zeroes: func(len: u64) -> result<_, stream-error>;
       }
     }",
    "package wasi:clocks@0.2.0;
     interface wall-clock { record datetime { seconds: u64, nanoseconds: u32 } now: func() -> datetime; }
     interface monotonic-clock {
       use wasi:io/poll@0.2.0.{pollable};
       now: func() -> u64;
       subscribe-duration: func(when: u64) -> pollable;
     }",
    "package wasi:random@0.2.0;
     interface random { get-random-bytes: func(len: u64) -> list<u8>; get-random-u64: func() -> u64; }",
    "package wasi:cli@0.2.0;
     interface exit { exit: func(status: result); }
     interface stdout { use wasi:io/streams@0.2.0.{output-stream}; get-stdout: func() -> output-stream; }",
];

/// A guest that imports what `imports` says, by its interface's name and function, and decides so.
fn guest(imports: &[(&str, &str, &str)], decide: &str, module: Module) -> Vec<u8> {
    let (mut text, mut world) = (String::new(), Vec::new());
    for (n, (interface, function, signature)) in imports.iter().enumerate() {
        let _ = writeln!(text, "(import \"{interface}@0.2.0\" \"{function}\" (func $f{n} {signature}))");
        let import = format!("import {interface}@0.2.0;");
        if !world.contains(&import) {
            world.push(import);
        }
    }
    let packages = WASI.iter().map(|&package| package.to_owned()).collect();
    Module { imports: text, world: world.concat(), packages, decide: decide.to_owned(), ..module }.component()
}

const NOW: (&str, &str, &str) = ("wasi:clocks/wall-clock", "now", "(param i32)");
const TICKS: (&str, &str, &str) = ("wasi:clocks/monotonic-clock", "now", "(result i64)");
const RANDOM: (&str, &str, &str) = ("wasi:random/random", "get-random-u64", "(result i64)");
const RANDOM_BYTES: (&str, &str, &str) = ("wasi:random/random", "get-random-bytes", "(param i64 i32)");
const ALARM: (&str, &str, &str) = ("wasi:clocks/monotonic-clock", "subscribe-duration", "(param i64) (result i32)");
const BLOCK: (&str, &str, &str) = ("wasi:io/poll", "[method]pollable.block", "(param i32)");
const READY: (&str, &str, &str) = ("wasi:io/poll", "[method]pollable.ready", "(param i32) (result i32)");
const POLL: (&str, &str, &str) = ("wasi:io/poll", "poll", "(param i32 i32 i32)");
const EXIT: (&str, &str, &str) = ("wasi:cli/exit", "exit", "(param i32)");
const STDOUT: (&str, &str, &str) = ("wasi:cli/stdout", "get-stdout", "(result i32)");
const WRITE: (&str, &str, &str) =
    ("wasi:io/streams", "[method]output-stream.blocking-write-and-flush", "(param i32 i32 i32 i32)");
const ZEROES: (&str, &str, &str) = ("wasi:io/streams", "[method]output-stream.write-zeroes", "(param i32 i64 i32)");

/// Refuses with what it sees, 16 letters each: the wall clock's seconds, randomness, the monotonic clock twice, and how
/// often this instance was asked.
fn curious() -> Vec<u8> {
    let module = Module {
        rest: r"(global $calls (mut i64) (i64.const 0))
          (func $show (param $at i32) (param $value i64) (local $n i32)
            (loop $next
              (i32.store8 (i32.add (local.get $at) (local.get $n))
                (i32.add (i32.const 97) (i32.wrap_i64 (i64.shr_u (local.get $value) (i64.const 60)))))
              (local.set $value (i64.shl (local.get $value) (i64.const 4)))
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (br_if $next (i32.lt_u (local.get $n) (i32.const 16)))))"
            .to_owned(),
        ..Module::refusing((64, 7), (5000, 80), (0, 0))
    };
    let decide = r"
      (call $f0 (i32.const 6000))
      (call $show (i32.const 5000) (i64.load (i32.const 6000)))
      (call $show (i32.const 5016) (call $f1))
      (call $show (i32.const 5032) (call $f2))
      (call $show (i32.const 5048) (call $f2))
      (global.set $calls (i64.add (global.get $calls) (i64.const 1)))
      (call $show (i32.const 5064) (global.get $calls))";
    guest(&[NOW, RANDOM, TICKS], decide, module)
}

/// The numbers that a curious guest saw.
fn seen(answer: &Answer) -> Vec<u64> {
    let letters = answer.word("/message").into_bytes();
    letters.chunks(16).map(|number| number.iter().fold(0, |n, letter| n << 4 | u64::from(letter - b'a'))).collect()
}

/// A host whose tenant `acme-corp` has the tier `odd`, decided by `component`.
async fn host(component: &[u8], manifest: &str) -> (Host, Scratch) {
    let folder = guests::own_folder();
    folder.write("odd.wasm", component);
    folder.write("odd.toml", manifest);
    let host = Setup { policies: guests::open(folder.path().to_owned()), ..Setup::default() }.start().await;
    host.tenant("acme-corp", Some("odd"), None).await;
    (host, folder)
}

async fn ask(host: &Host) -> Answer {
    host.check(json!({ "tenantId": "acme-corp", "resourceType": "llm" })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn its_clock_is_the_requests_and_its_randomness_another_for_each_request() {
    let (host, _folder) = host(&curious(), SANDBOX).await;
    let first = seen(&ask(&host).await.expect_status(403));
    host.at("2026-01-04T12:00:07Z");
    let second = seen(&ask(&host).await.expect_status(403));
    assert_eq!((first[0], second[0]), (1_767_528_000, 1_767_528_007));
    assert_ne!(first[1], second[1]);
    // A clock that moves, and tells nothing of how long anything takes.
    assert_eq!((&first[2..4], &second[2..4]), (&[1_000, 2_000][..], &[1_000, 2_000][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_facts_give_the_same_verdict_in_every_instance_and_on_every_host() {
    // Fixtures have one id and time; what they see is written down here, for every machine and version.
    let expected = "aaaaaaaagjfkfgeajnjaiomplglcfgno";
    let case = |name: &str, reason: &str| {
        format!(
            "[[case]]\nname = \"{name}\"\nnow = \"2026-01-04T12:00:00Z\"\n\
             request = {{ tenantId = \"acme-corp\", resourceType = \"llm\", estimatedCostUsd = \"2.00\" }}\n\
             expect = {{ decision = \"deny\", reason = \"{reason}*\" }}\n"
        )
    };
    let (host, folder) = host(&curious(), SANDBOX).await;
    for (reason, status) in [(expected, 200), ("b", 422), (expected, 200)] {
        folder.write("odd.fixtures.toml", [case("once", reason), case("twice", reason)].concat());
        let reloaded = Answer::of(host.request("POST", "/v1/policies/reload")).await;
        assert_eq!(reloaded.status, status, "{}", reloaded.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_serves_one_decision_even_where_many_of_a_tenant_come_at_once() {
    let (host, _folder) = host(&curious(), SANDBOX).await;
    let asked: Vec<_> = (0..40)
        .map(|_| {
            let body = json!({ "tenantId": "acme-corp", "resourceType": "llm" });
            tokio::spawn(Answer::of(host.request("POST", "/v1/check").json(&body)))
        })
        .collect();
    for answer in asked {
        assert_eq!(seen(&answer.await.expect("no panic").expect_status(403))[4], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_are_refused_by_name_and_with_what_to_do() {
    let http = Module {
        packages: vec!["package wasi:http@0.2.0; interface types { now: func(); }".to_owned()],
        world: "import wasi:http/types@0.2.0;".to_owned(),
        imports: r#"(import "wasi:http/types@0.2.0" "now" (func))"#.to_owned(),
        ..Module::default()
    };
    let later = Module {
        packages: vec!["package wasi:clocks@0.3.0; interface wall-clock { now: func(); }".to_owned()],
        world: "import wasi:clocks/wall-clock@0.3.0;".to_owned(),
        imports: r#"(import "wasi:clocks/wall-clock@0.3.0" "now" (func))"#.to_owned(),
        ..Module::default()
    };
    let other = Module {
        packages: vec!["package wasi:clocks@0.2.0; interface wall-clock { now: func(place: string); }".to_owned()],
        world: "import wasi:clocks/wall-clock@0.2.0;".to_owned(),
        imports: r#"(import "wasi:clocks/wall-clock@0.2.0" "now" (func (param i32 i32)))"#.to_owned(),
        ..Module::default()
    };
    let without = "timeout_ms = 1000\nwasi = \"deny\"\n";
    for (component, manifest, fragments) in [
        (curious(), without, &["wasi:clocks/wall-clock@0.2.0", "wasi = \"sandbox\" in its NAME.toml"][..]),
        (curious(), "", &["a policy imports nothing; build it without: Rust for wasm32-unknown-unknown"]),
        (http.component(), without, &["imports wasi:http/types@0.2.0, and a policy imports nothing"]),
        (http.component(), SANDBOX, &["imports wasi:http/types@0.2.0, and the sandbox has WASI 0.2 only"]),
        (later.component(), SANDBOX, &["imports wasi:clocks/wall-clock@0.3.0, and the sandbox has WASI 0.2 only"]),
        (other.component(), SANDBOX, &["imports what the sandbox has not", "wasi:clocks/wall-clock@0.2.0"]),
    ] {
        let (host, _folder) = host(&component, manifest).await;
        let message = ask(&host).await.expect_status(503).word("/message");
        for fragment in fragments {
            assert!(message.contains(fragment), "{fragment}: {message}");
        }
        let offered = message.contains("wasi = \"sandbox\"");
        assert_eq!(offered, component == curious(), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_prints_is_kept_in_bounds_and_logged_for_its_author() {
    let folder = guests::own_folder();
    // The text of its description, 400,000 times.
    let decide = r"(local $out i32) (local $n i32)
      (local.set $out (call $f0))
      (loop $again
        (call $f1 (local.get $out) (i32.const 28) (i32.const 29) (i32.const 6000))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $n) (i32.const 400))))";
    folder.write("odd.wasm", guest(&[STDOUT, WRITE], decide, Module::default()));
    folder.write("odd.toml", SANDBOX);
    let (database, policies) = (Database::migrated().await, folder.path().to_str().expect("a text"));
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--policies", policies, "--log-level", "debug"];
    let gate = Binary::start(&arguments, &[("DATABASE_URL", &database.url())]);
    database.run("INSERT INTO copilot_internal.tenants (tenant_id, tier) VALUES ('acme-corp', 'odd')").await;
    let body = json!({ "tenantId": "acme-corp", "resourceType": "llm" });
    gate.send("POST", "/v1/check", body).await.expect_status(200);
    let log = gate.interrupt().log;
    let printed: Vec<&String> = log.iter().filter(|line| line.contains("Policy printed")).collect();
    assert_eq!(printed.len(), 1, "{log:?}");
    assert!(printed[0].contains(r#""level":"debug""#) && printed[0].contains(r#""stream":"stdout""#), "{printed:?}");
    assert!(printed[0].contains("Does what no policy should doDoes") && printed[0].len() < 5_000, "{printed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_it_asks_of_its_sandbox_outlasts_its_deadline_or_costs_the_host_more_than_an_answer() {
    let alarm = "(call $f0 (i64.const 60000000000))";
    let wait = "it waits (wasi:io/poll, a sleep)";
    let poll =
        format!("(i32.store (i32.const 6000) {alarm}) (call $f1 (i32.const 6000) (i32.const 1) (i32.const 6100))");
    let cases = [
        ("sleep", guest(&[ALARM, BLOCK], &format!("(call $f1 {alarm})"), Module::default()), "sandbox", wait),
        ("poll", guest(&[ALARM, POLL], &poll, Module::default()), "sandbox", wait),
        (
            "busy-wait",
            guest(
                &[ALARM, READY],
                &format!("(local $p i32) (local.set $p {alarm}) (loop (br_if 0 (i32.eqz (call $f1 (local.get $p)))))"),
                Module::default(),
            ),
            "timeout",
            "no answer within",
        ),
        (
            "busy-clock",
            guest(&[NOW], "(loop (call $f0 (i32.const 6000)) (br 0))", Module::default()),
            "timeout",
            "no answer within",
        ),
        (
            "print-for-ever",
            guest(
                &[STDOUT, WRITE],
                "(local $o i32) (local.set $o (call $f0))
                 (loop (call $f1 (local.get $o) (i32.const 0) (i32.const 4096) (i32.const 6000)) (br 0))",
                Module::default(),
            ),
            "timeout",
            "no answer within",
        ),
        (
            "random-flood",
            guest(&[RANDOM_BYTES], "(call $f0 (i64.const 1000000000000) (i32.const 6000))", Module::default()),
            "sandbox",
            "1000000000000 random bytes at once",
        ),
        (
            "handles",
            guest(&[ALARM], &format!("(loop (drop {alarm}) (br 0))"), Module::default()),
            "handles",
            "more than 64 handles",
        ),
        (
            "exit",
            guest(&[EXIT], "(call $f0 (i32.const 0))", Module::default()),
            "trap",
            "it ended itself with status 0",
        ),
    ];
    for (name, component, kind, message) in cases {
        let manifest = if kind == "timeout" { "timeout_ms = 100\nwasi = \"sandbox\"" } else { SANDBOX };
        let (host, _folder) = host(&component, manifest).await;
        let answer = ask(&host).await.expect_status(503);
        assert!(answer.word("/message").contains(message), "{name}: {}", answer.text);
        let stored = host.get(&format!("/v1/decisions/{}", answer.word("/decisionId"))).await;
        assert_eq!(stored.at("/code"), kind, "{name}");
    }
    // Zeroes without end are written nowhere.
    let zeroes = guest(&[STDOUT, ZEROES], "(call $f1 (call $f0) (i64.const -1) (i32.const 6000))", Module::default());
    let (host, _folder) = host(&zeroes, SANDBOX).await;
    ask(&host).await.expect_status(200);
    // And what is ready at once is no wait.
    let ready = guest(&[ALARM, BLOCK], "(call $f1 (call $f0 (i64.const 0)))", Module::default());
    let (host, _folder) = self::host(&ready, SANDBOX).await;
    ask(&host).await.expect_status(200);
}
