//! Components written by hand: a core module in WebAssembly's text, wrapped as `policy build` wraps a crate's.

use std::fmt::Write as _;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::harness::guests::repository;

/// Where a core module exports the functions of the interface.
const DECIDER: &str = "tollgate:policy/decider@0.1.0";
/// Where `decide` leaves its answer.
pub const ANSWER: u32 = 2048;

/// A policy's core module: says yes, until a part of it is replaced. Parts are WebAssembly text.
#[derive(Clone)]
pub struct Module {
    /// Pages of the memory, and the most it may grow to.
    pub memory: String,
    /// The answer's 64 bytes, as a data segment's text.
    pub answer: String,
    /// Body of `decide`; the facts are at `(local.get 0)`.
    pub decide: String,
    /// Body of `validate-settings` up to its answer, which is yes.
    pub validate: String,
    /// Body of `describe` up to its answer.
    pub describe: String,
    /// Run before memory is given out; the size asked for is `(local.get 3)`.
    pub realloc: String,
    /// Before everything else in the module: imports.
    pub imports: String,
    /// Whatever else belongs to the module: functions, tables, a start.
    pub rest: String,
    /// What the world has besides the policy's interface.
    pub world: String,
    /// Interfaces of the module's own package, `tests:hostile`.
    pub interfaces: String,
    /// Packages that the world names.
    pub packages: Vec<String>,
}

impl Default for Module {
    fn default() -> Self {
        Self {
            memory: "2".to_owned(),
            answer: words(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            decide: String::new(),
            validate: String::new(),
            describe: String::new(),
            realloc: String::new(),
            imports: String::new(),
            rest: String::new(),
            world: String::new(),
            interfaces: String::new(),
            packages: Vec::new(),
        }
    }
}

impl Module {
    /// A refusal: where its code and its reason lie, and its annotations.
    pub fn refusing(code: (u32, u32), reason: (u32, u32), annotations: (u32, u32)) -> Self {
        let answer = [0, 0, 1, 0, code.0, code.1, reason.0, reason.1, 0, 0, 0, 0, 0, 0, annotations.0, annotations.1];
        Self { answer: words(&answer), ..Self::default() }
    }

    fn text(&self) -> String {
        let Self { memory, answer, decide, validate, describe, realloc, imports, rest, .. } = self;
        let description = words(&[16, 7, 23, 5, 28, 29, 0, 0, 0, 0]);
        format!(
            r#"(module
  {imports}
  (memory (export "memory") {memory})
  (global $heap (mut i32) (i32.const 8192))
  (data (i32.const 16) "hostile0.1.0Does what no policy should do")
  (data (i32.const 64) "refused" "a reason" "\ff\fe\fd")
  (data (i32.const 1024) "{description}")
  (data (i32.const {ANSWER}) "{answer}")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
    {realloc}
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  (func (export "{DECIDER}#describe") (result i32)
    {describe}
    (i32.const 1024))
  (func (export "{DECIDER}#validate-settings") (param i32 i32) (result i32)
    {validate}
    (i32.const 4000))
  (func $decide (export "{DECIDER}#decide") (param i32) (result i32)
    {decide}
    (i32.const {ANSWER}))
  {rest})"#
        )
    }

    /// As a component.
    pub fn component(&self) -> Vec<u8> {
        let text = self.text();
        let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let wit = std::fs::read_to_string(repository().join("wit/policy.wit")).expect("the interface");
        let mut resolve = Resolve::default();
        for (n, package) in self.packages.iter().enumerate() {
            resolve.push_str(format!("package-{n}.wit"), package).expect("a package");
        }
        resolve.push_str("policy.wit", &wit).expect("the interface");
        let world = format!(
            "package tests:hostile;\nworld hostile {{ export {DECIDER};\n{} }}\n{}",
            self.world, self.interfaces
        );
        let package = resolve.push_str("hostile.wit", &world).expect("a world");
        let world = resolve.select_world(&[package], None).expect("one world");
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).expect("metadata");
        let encoded = ComponentEncoder::default().validate(true).module(&module).and_then(ComponentEncoder::encode);
        encoded.expect("a component of the world")
    }
}

/// Numbers as they lie in memory, written as a data segment's text.
pub fn words(numbers: &[u32]) -> String {
    numbers.iter().flat_map(|number| number.to_le_bytes()).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "\\{byte:02x}");
        text
    })
}
