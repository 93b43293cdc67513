//! The house's rules about who may use whom, read from the source: arrows point down only, and each heavy
//! dependency has one door.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::guests::repository;

/// The rooms from the ground up. Rooms of one floor never use each other, but for the words, and for the top one,
/// which wires the world.
const FLOORS: [&[&str]; 6] = [
    &[
        "money",
        "clock",
        "period",
        "quota",
        "decision",
        "nearest",
        "metrics",
        "origin",
        "decimal",
        "causes",
        "contained",
    ],
    &["policy", "store", "alert", "spool"],
    &["gate"],
    &["worker"],
    &["api"],
    &["server", "commands", "config", "cli", "telemetry", "tiers", "main"],
];

/// What only some rooms may say, and which.
const DOORS: [(&str, &[&str]); 18] = [
    ("sqlx::", &["store"]),
    ("wasmtime::", &["policy"]),
    ("wasmtime_wasi::", &["policy"]),
    ("wasmtime_wasi_io::", &["policy"]),
    ("wit_component::", &["policy"]),
    ("axum::", &["api", "server"]),
    ("StatusCode", &["api"]),
    ("clap::", &["cli", "main", "commands"]),
    ("clap_complete::", &["cli", "commands"]),
    ("toml_edit::", &["policy"]),
    ("std::env", &["config"]),
    ("env::var", &["config"]),
    ("Utc::now", &["clock"]),
    ("SystemTime::now", &["clock"]),
    ("reqwest::", &["alert"]),
    ("lettre::", &["alert"]),
    ("rustls::", &["alert"]),
    ("notify::", &["policy"]),
];

/// Commands hand a store's address on; they never speak SQL.
const EXCEPTIONS: [(&str, &str); 1] = [("commands", "sqlx::postgres::PgConnectOptions")];

struct Source {
    file: PathBuf,
    room: String,
    /// Numbered lines without comments, tests and texts.
    lines: Vec<(usize, String)>,
}

fn sources() -> Vec<Source> {
    let source = repository().join("host/src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    assert!(files.len() > 20, "{files:?}");
    files
        .into_iter()
        .filter(|file| !file.ends_with("lib.rs") && !file.ends_with("tests.rs"))
        .map(|file| {
            let inside = file.strip_prefix(&source).expect("a file of the source");
            let room = inside.iter().next().expect("a room").to_str().expect("a text").trim_end_matches(".rs");
            let text = fs::read_to_string(&file).expect("a source");
            let code = text.split("\n#[cfg(test)]").next().unwrap_or_default();
            let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned());
            Source { room: room.to_owned(), lines: (1..).zip(lines).collect(), file }
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn floor(room: &str) -> usize {
    FLOORS.iter().position(|rooms| rooms.contains(&room)).unwrap_or_else(|| panic!("{room} has no floor: give it one"))
}

/// The rooms that a line names: `crate::store::…`, and each of `crate::{store, gate}`.
fn named(line: &str) -> Vec<&str> {
    line.split("crate::")
        .skip(1)
        .flat_map(|rest| {
            let listed = rest.strip_prefix('{').map_or(rest, |list| list.split('}').next().unwrap_or_default());
            let many = rest.starts_with('{');
            listed.split(',').take(if many { usize::MAX } else { 1 }).map(|name| {
                let name = name.trim();
                let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
                &name[..end]
            })
        })
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn arrows_point_down_only() {
    let mut wrong = Vec::new();
    for source in sources() {
        let own = floor(&source.room);
        for (number, line) in &source.lines {
            for room in named(line) {
                let open = [0, FLOORS.len() - 1].contains(&own) && floor(room) == own;
                let allowed = room == source.room || floor(room) < own || open;
                if !allowed {
                    wrong.push(format!("{}:{number}: {} uses {room}", source.file.display(), source.room));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_heavy_dependency_has_one_door() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (number, line) in &source.lines {
            for (word, rooms) in DOORS {
                let excepted = EXCEPTIONS.iter().any(|(room, text)| *room == source.room && line.contains(text));
                if line.contains(word) && !rooms.contains(&source.room.as_str()) && !excepted {
                    wrong.push(format!("{}:{number}: {word} belongs to {}", source.file.display(), rooms.join(", ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_the_rules_sees_what_breaks_them() {
    assert_eq!(named("use crate::store::Store;"), ["store"]);
    assert_eq!(named("use crate::{policy::Folder, store};"), ["policy", "store"]);
    assert_eq!(named("let a: crate::gate::Gate = crate::money::Money::ZERO;"), ["gate", "money"]);
    assert_eq!(named("use super::Store;"), [""; 0]);
    assert!(floor("store") < floor("gate") && floor("policy") == floor("store"));
}
