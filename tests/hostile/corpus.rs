//! Every way to misbehave that we could think of, as components, and what has to stop each.

use std::fmt::Write as _;

use super::component::{ANSWER, Module};

/// A policy that must not do harm, and how it has to be told from the others.
pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// The operator's file beside it.
    pub manifest: &'static str,
    pub kind: &'static str,
    /// Part of the message; what its author has to know.
    pub message: &'static str,
}

/// Wall time is what a busy machine has least of: only what never answers waits for its deadline.
const PATIENT: &str = "timeout_ms = 1000";
const ENDLESS: &str = "timeout_ms = 100";
const SPIN: &str = "(loop (br 0))";

fn case(name: &'static str, module: &Module, kind: &'static str, message: &'static str) -> Case {
    let manifest = if kind == "timeout" { ENDLESS } else { PATIENT };
    Case { name, bytes: module.component(), manifest, kind, message }
}

fn deciding(decide: &str) -> Module {
    Module { decide: decide.to_owned(), ..Module::default() }
}

/// All of them.
pub fn corpus() -> Vec<Case> {
    [time(), space(), answers(), traps(), floods(), shapes()].into_iter().flatten().collect()
}

/// Policies that never come back, wherever guest code runs.
fn time() -> Vec<Case> {
    let spin = || SPIN.to_owned();
    let late = "no answer within 100 ms (timeout_ms)";
    let post = format!(r#"(func (export "cabi_post_tollgate:policy/decider@0.1.0#decide") (param i32) {SPIN})"#);
    let start = format!("(func $main {SPIN}) (start $main)");
    vec![
        case("loop-in-decide", &deciding(SPIN), "timeout", late),
        case("loop-in-start", &Module { rest: start, ..Module::default() }, "timeout", late),
        case("loop-in-describe", &Module { describe: spin(), ..Module::default() }, "timeout", late),
        case("loop-in-validate", &Module { validate: spin(), ..Module::default() }, "timeout", late),
        case(
            "loop-in-realloc",
            &Module { realloc: format!("(if (local.get 3) (then {SPIN}))"), ..Module::default() },
            "timeout",
            late,
        ),
        case("loop-after-return", &Module { rest: post, ..Module::default() }, "timeout", late),
    ]
}

/// Policies that take what they are not given: memory, tables, stack.
fn space() -> Vec<Case> {
    let memory = "wanted more than 16 MiB of memory (memory_mib)";
    let table = "wanted a table of more than 20000 entries";
    let with_table = |decide: &str| Module { rest: "(table $t 1 funcref)".to_owned(), ..deciding(decide) };
    vec![
        case("memory-grown-for-ever", &deciding("(loop (drop (memory.grow (i32.const 16))) (br 0))"), "memory", memory),
        case("memory-at-once", &deciding("(drop (memory.grow (i32.const 4096)))"), "memory", memory),
        case("memory-at-the-start", &Module { memory: "1024".to_owned(), ..Module::default() }, "memory", memory),
        case(
            "table-grown-for-ever",
            &with_table("(loop (drop (table.grow $t (ref.null func) (i32.const 1000))) (br 0))"),
            "table",
            table,
        ),
        case(
            "table-at-once",
            &with_table("(drop (table.grow $t (ref.null func) (i32.const 10000000)))"),
            "table",
            table,
        ),
        case(
            "table-at-the-start",
            &Module { rest: "(table 1000000 funcref)".to_owned(), ..Module::default() },
            "load",
            "table",
        ),
        case("stack", &deciding("(drop (call $decide (local.get 0)))"), "stack", "overflowed its stack of 512 KiB"),
    ]
}

/// Answers that are none.
fn answers() -> Vec<Case> {
    let (code, reason) = ((64, 7), (71, 8));
    let large = |module: Module| Module { memory: "1700".to_owned(), ..module };
    let mut hundred_megabytes = case(
        "answer-of-100-mb",
        &large(Module::refusing(code, (0, 100_000_000), (0, 0))),
        "output",
        "answered more than 64 KiB",
    );
    hundred_megabytes.manifest = "timeout_ms = 1000\nmemory_mib = 128";
    let mut million = case(
        "million-items",
        &large(Module::refusing(code, reason, (0, 1_000_000))),
        "output",
        "answered more than 64 KiB",
    );
    million.manifest = hundred_megabytes.manifest;
    let mut million_faults = case(
        "million-faults",
        &Module {
            validate: "(i32.store8 (i32.const 4000) (i32.const 1)) (i32.store (i32.const 4008) (i32.const 1000000))"
                .to_owned(),
            ..large(Module::default())
        },
        "output",
        "answered more than 64 KiB",
    );
    million_faults.manifest = hundred_megabytes.manifest;
    let spoilt = |at: u32, byte: u8| deciding(&format!("(i32.store8 (i32.const {}) (i32.const {byte}))", ANSWER + at));
    vec![
        hundred_megabytes,
        million,
        million_faults,
        case(
            "answer-beyond-its-memory",
            &Module::refusing(code, (131_000, 1_000), (0, 0)),
            "bad_answer",
            "out of bounds of memory",
        ),
        case(
            "list-beyond-its-memory",
            &Module::refusing(code, reason, (0, 1_000_000)),
            "bad_answer",
            "out of bounds of memory",
        ),
        case("code-not-utf-8", &Module::refusing((79, 3), reason, (0, 0)), "bad_answer", "utf-8"),
        case("reason-not-utf-8", &Module::refusing(code, (79, 3), (0, 0)), "bad_answer", "utf-8"),
        case("neither-yes-nor-no", &spoilt(8, 7), "bad_answer", "discriminant"),
        case("neither-answer-nor-error", &spoilt(0, 7), "bad_answer", "discriminant"),
        case("answer-at-an-odd-place", &deciding("(return (i32.const 2049))"), "bad_answer", "not aligned"),
        case("answer-nowhere", &deciding("(return (i32.const -8))"), "bad_answer", "out of bounds of memory"),
        case(
            "memory-given-out-nowhere",
            &Module { realloc: "(if (local.get 3) (then (return (i32.const -8))))".to_owned(), ..Module::default() },
            "bad_answer",
            "realloc return: beyond end of memory",
        ),
    ]
}

/// Policies that stop themselves.
fn traps() -> Vec<Case> {
    let start = "(func $main unreachable) (start $main)".to_owned();
    vec![
        case("unreachable", &deciding("unreachable"), "trap", "unreachable"),
        case(
            "division-by-zero",
            &deciding("(drop (i32.div_u (i32.const 1) (i32.load (i32.const 0))))"),
            "trap",
            "divide by zero",
        ),
        case(
            "read-beyond-memory",
            &deciding("(drop (i32.load (i32.const -4)))"),
            "trap",
            "out of bounds memory access",
        ),
        case(
            "call-of-nothing",
            &Module {
                rest: "(type $f (func)) (table $t 1 funcref)".to_owned(),
                ..deciding("(call_indirect $t (type $f) (i32.const 0))")
            },
            "trap",
            "uninitialized element",
        ),
        case("trap-in-start", &Module { rest: start, ..Module::default() }, "trap", "unreachable"),
    ]
}

/// Policies that want more of the host than an answer.
fn floods() -> Vec<Case> {
    let handles = Module {
        imports:
            r#"(import "[export]tests:hostile/things" "[resource-new]thing" (func $new (param i32) (result i32)))"#
                .to_owned(),
        world: "export things;".to_owned(),
        interfaces: "interface things { resource thing; }".to_owned(),
        ..deciding("(loop (drop (call $new (i32.const 1))) (br 0))")
    };
    let mut instances = "(component (core module $m)".to_owned();
    let mut memories = "(component (core module $m (memory 1))".to_owned();
    for _ in 0..1_000 {
        instances.push_str("(core instance (instantiate $m))");
    }
    for _ in 0..10 {
        memories.push_str("(core instance (instantiate $m))");
    }
    for text in [&mut instances, &mut memories] {
        text.push(')');
    }
    let text = |name, text: &str, message| Case {
        name,
        bytes: wat::parse_str(text).expect("a component"),
        manifest: PATIENT,
        kind: "load",
        message,
    };
    vec![
        case("handles", &handles, "handles", "more than 64 handles"),
        text("thousand-instances", &instances, "1000 core module instances"),
        text("ten-memories", &memories, "10 Wasm linear memories"),
    ]
}

/// What is no policy, or another one's.
fn shapes() -> Vec<Case> {
    let shape = |name, bytes, message| Case { name, bytes, manifest: PATIENT, kind: "load", message };
    let text = |text: &str| wat::parse_str(text).expect("a component");
    let world = "does not export tollgate:policy/decider@0.1.0 as it should";
    vec![
        shape(
            "core-module",
            text("(module)"),
            "a core module, not a component; `tollgate policy build` makes a component",
        ),
        shape("empty-component", text("(component)"), world),
        shape(
            "other-version",
            text(r#"(component (instance $i) (export "tollgate:policy/decider@0.2.0" (instance $i)))"#),
            world,
        ),
        shape(
            "interface-without-functions",
            text(r#"(component (instance $i) (export "tollgate:policy/decider@0.1.0" (instance $i)))"#),
            world,
        ),
        shape(
            "other-types",
            text(
                r#"(component
                  (core module $m (func (export "f")))
                  (core instance $c (instantiate $m))
                  (func $f (canon lift (core func $c "f")))
                  (instance $i (export "describe" (func $f)) (export "validate-settings" (func $f))
                    (export "decide" (func $f)))
                  (export "tollgate:policy/decider@0.1.0" (instance $i)))"#,
            ),
            world,
        ),
        shape("text-format", b"(component)".to_vec(), "not a WebAssembly component"),
        shape("script", b"#!/bin/sh\nexit 0\n".to_vec(), "not a WebAssembly component"),
        shape("empty-file", Vec::new(), "not a WebAssembly component"),
    ]
}

/// A component whose one function is so large that compiling it takes long: `size` additions that depend on each other.
pub fn compile_bomb(size: usize) -> Vec<u8> {
    let mut rest = String::from("(func (export \"bomb\") (param i64) (result i64) (local.get 0)");
    for n in 0..size {
        let _ = write!(rest, "(i64.mul (i64.xor (local.get 0) (i64.const {n}))) (local.tee 0)");
    }
    rest.push(')');
    Module { rest, ..Module::default() }.component()
}
