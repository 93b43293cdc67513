//! Documents that are followed: each command of a page is run as it stands there, in the order of the page, in a folder
//! that belongs to the reader, beside a gate.
//!
//! `sh` must succeed; `sql` is asked of the database. Of `console`, the lines behind `$ ` are run, and what stands below
//! each must be what it says; one that shows an `error:` must fail. A `diff` is what the reader changes in a file. What
//! else a block's first line says, behind its language, is not shown to readers: a `diff` names its file, and a block that is
//! for the readers of one language of policies names that.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::guests::repository;
use super::{Host, Scratch};

/// A fenced block.
pub struct Block {
    pub line: usize,
    pub language: String,
    /// The words behind the language.
    pub about: Vec<String>,
    pub text: String,
}

/// The fenced blocks of a page; those in lists are indented, and lose their indentation.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    for (number, line) in (1..).zip(page.lines()) {
        let trimmed = line.trim_start();
        match (&mut open, trimmed.strip_prefix("```")) {
            (None, Some(said)) => {
                let mut words = said.split_whitespace().map(str::to_owned);
                let language = words.next().unwrap_or_default();
                let block = Block { line: number, language, about: words.collect(), text: String::new() };
                open = Some((line.len() - trimmed.len(), block));
            }
            (Some(_), Some("")) => blocks.extend(open.take().map(|(_, block)| block)),
            (Some((indentation, block)), _) => {
                block.text.push_str(line.get(*indentation..).unwrap_or_default());
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block that does not end");
    blocks
}

/// Whether a line is as the page says, where `…` is anything but nothing.
pub fn is_as(said: &str, line: &str) -> bool {
    let Some((before, after)) = said.split_once('…') else { return said == line };
    let Some(rest) = line.strip_prefix(before) else { return false };
    rest.char_indices().skip(1).any(|(at, _)| is_as(after, &rest[at..])) || (after.is_empty() && !rest.is_empty())
}

/// Whether an output is as the page says: line by line, where a line that is only `…` is any number of them. Times and
/// sizes are those of the page's machine, and not compared.
fn output_is_as(said: &[String], output: &[String]) -> bool {
    match (said.split_first(), output.split_first()) {
        (None, None) => true,
        (Some((said, rest)), _) if said == "…" => {
            (0..=output.len()).any(|skipped| output_is_as(rest, &output[skipped..]))
        }
        (Some((said, rest)), Some((line, others))) => is_as(said, line) && output_is_as(rest, others),
        _ => false,
    }
}

/// Lines without the numbers of a machine, and without the width of their columns.
fn comparable(text: &str) -> Vec<String> {
    const UNITS: [&str; 5] = ["KiB", "MiB", "µs", "ms", "s"];
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_of_a_unit = |n: usize| {
            words.get(n + 1).is_some_and(|unit| UNITS.contains(&unit.trim_end_matches([',', ')'])))
                && words[n].starts_with(|c: char| c.is_ascii_digit())
        };
        let words = words.iter().enumerate().map(|(n, word)| if is_of_a_unit(n) { "#" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    text.trim_end().lines().map(line).collect()
}

/// A command of a `console` block, and what the page shows below it.
#[derive(Debug, PartialEq, Eq)]
pub struct Typed {
    pub command: String,
    pub shown: String,
}

/// The commands of a `console` block. One goes on while its line ends in `\`.
pub fn typed(block: &Block) -> Vec<Typed> {
    let mut all: Vec<Typed> = Vec::new();
    let mut goes_on = false;
    for line in block.text.lines() {
        match (line.strip_prefix("$ "), all.last_mut()) {
            (Some(command), _) => all.push(Typed { command: command.to_owned(), shown: String::new() }),
            (None, Some(last)) if goes_on => last.command.extend(["\n", line]),
            (None, Some(last)) => last.shown.extend([line, "\n"]),
            (None, None) => panic!("line {}: no command before {line:?}", block.line),
        }
        goes_on = line.ends_with('\\') && (goes_on || line.starts_with("$ "));
    }
    all
}

/// What happens while a page is followed, for a recording.
pub enum Event<'a> {
    Typed(&'a str),
    /// Some of what a command says, and how long after its start.
    Said(Duration, &'a str),
    /// The command has ended.
    Ended(Duration),
    /// The reader changes a file.
    Edited(&'a str, &'a str),
}

/// Somebody who follows pages.
pub struct Reader<'a> {
    pub host: &'a Host,
    /// Where the commands run.
    pub folder: &'a Scratch,
    /// The language of policies that the reader has chosen, where a page has several.
    pub language: &'a str,
    /// The program that is called `tollgate`.
    pub program: PathBuf,
    /// Beside `PATH` and the database.
    pub environment: Vec<(&'static str, String)>,
    pub watches: Box<dyn FnMut(Event<'_>) + 'a>,
}

/// The languages of policies.
const LANGUAGES: [&str; 3] = ["rust", "javascript", "python"];

impl<'a> Reader<'a> {
    pub fn new(host: &'a Host, folder: &'a Scratch) -> Self {
        Self {
            host,
            folder,
            language: "",
            program: env!("CARGO_BIN_EXE_tollgate").into(),
            environment: Vec::new(),
            watches: Box::new(|_| ()),
        }
    }

    /// Runs a page, named from the repository's top; a line for each block that was run.
    pub async fn follow(&mut self, page: &str) -> Vec<String> {
        let text = fs::read_to_string(repository().join(page)).expect("the page");
        let mut report = Vec::new();
        for block in blocks(&text) {
            let place = format!("{page}:{}", block.line);
            let is_of_another = |word: &String| LANGUAGES.contains(&word.as_str()) && word != self.language;
            if block.about.iter().any(is_of_another) {
                continue;
            }
            match block.language.as_str() {
                "sql" => {
                    let rows = self.host.database.rows(&block.text).await.len();
                    report.push(format!("{place}  sql  {rows} rows"));
                }
                "sh" => {
                    let (said, succeeded) = self.run(&block.text);
                    assert!(succeeded, "{place}:\n{}\n{said}", block.text);
                    report.push(format!("{place}  sh   {} lines", block.text.lines().count()));
                }
                "console" => {
                    for Typed { command, shown } in typed(&block) {
                        let (said, succeeded) = self.run(&command);
                        let fails = shown.lines().any(|line| line.starts_with("error:"));
                        let is_so = output_is_as(&comparable(&shown), &comparable(&said)) && succeeded != fails;
                        assert!(is_so, "{place}: {command}\nsays\n{shown}\nand it is\n{said}");
                    }
                    report.push(format!("{place}  console"));
                    // What was decided is in the log before anybody looks.
                    self.host.get("/v1/decisions?limit=1").await;
                }
                "diff" => {
                    let file = block.about.last().unwrap_or_else(|| panic!("{place}: a change of which file?"));
                    self.edit(&place, file, &block.text);
                    report.push(format!("{place}  diff of {file}"));
                }
                "text" => {}
                other => panic!("{place}: a block of {other:?} is not run"),
            }
        }
        println!("{}", report.join("\n"));
        report
    }

    /// What a shell says to it on both streams, and whether it succeeds.
    fn run(&mut self, script: &str) -> (String, bool) {
        let beside = self.program.parent().expect("a folder").to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([beside].into_iter().chain(std::env::split_paths(&path))).expect("a path");
        // Behind what the page shows as the gate's address.
        let (address, url) = ("http://127.0.0.1:8080", self.host.url());
        (self.watches)(Event::Typed(script));
        let begun = Instant::now();
        let mut child = Command::new("bash")
            .args(["-c", &format!("exec 2>&1; set -euo pipefail\n{}", script.replace(address, url))])
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", path)
            .env("DATABASE_URL", self.host.database.url())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash");
        let mut stdout = child.stdout.take().expect("its stdout");
        let (mut said, mut part) = (Vec::new(), [0; 4096]);
        loop {
            let read = stdout.read(&mut part).expect("what it says");
            if read == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&part[..read]).replace(url, address);
            (self.watches)(Event::Said(begun.elapsed(), &text));
            said.extend_from_slice(&part[..read]);
        }
        let succeeded = child.wait().expect("its end").success();
        (self.watches)(Event::Ended(begun.elapsed()));
        (String::from_utf8_lossy(&said).replace(url, address), succeeded)
    }

    /// Changes a file as a `diff` says, whose parts are apart by `@@`.
    fn edit(&mut self, place: &str, file: &str, diff: &str) {
        (self.watches)(Event::Edited(file, diff));
        let path = self.folder.join(file);
        let mut text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{place}: {file}: {error}"));
        for part in diff.split("@@\n").filter(|part| !part.trim().is_empty()) {
            let side = |other: char| -> String {
                let lines = part.lines().filter(|line| !line.starts_with(other));
                lines.flat_map(|line| [line.get(1..).unwrap_or_default(), "\n"]).collect()
            };
            let (before, after) = (side('+'), side('-'));
            assert_eq!(text.matches(&before).count(), 1, "{place}: not in {file} once:\n{before}\nwhich is\n{text}");
            text = text.replace(&before, &after);
        }
        fs::write(path, text).expect("a file");
    }
}

/// Variables of the tests' own environment, for tools that look for what is theirs in a home.
pub fn own_variables(names: &[&'static str]) -> Vec<(&'static str, String)> {
    names.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?))).collect()
}

#[test]
fn a_block_in_a_list_is_read_without_its_indentation() {
    let blocks = blocks("- [ ] x\n\n  ```sh\n  a \\\n      b\n  ```\n\n```diff rust a.rs\nc\n```\n");
    assert_eq!((blocks[0].line, blocks[0].text.as_str()), (3, "a \\\n    b\n"));
    assert_eq!((blocks.len(), blocks[1].language.as_str(), blocks[1].about.join("|")), (2, "diff", "rust|a.rs".into()));
}

#[test]
fn a_command_goes_on_behind_a_backslash_and_what_follows_is_shown() {
    let block = blocks("```console\n$ a \\\n    b\nc \\\nd\n\n$ e\n```\n").remove(0);
    let is = |command: &str, shown: &str| Typed { command: command.into(), shown: shown.into() };
    assert_eq!(typed(&block), [is("a \\\n    b", "c \\\nd\n\n"), is("e", "")]);
}

#[test]
fn an_output_is_compared_but_for_what_is_left_open_and_what_differs_between_machines() {
    let same = |said: &str, output: &str| output_is_as(&comparable(said), &comparable(output));
    assert!(is_as("sent (1 attempt) at …", "sent (1 attempt) at 2026-01-04") && is_as("a … c … e", "a b c d e"));
    assert!(!is_as("sent at …", "sent at ") && !is_as("a … c", "a b d") && !is_as("a", "ab"));
    assert!(is_as("…\"}", "{\"a\"}"));
    assert!(same("team.wasm  37 KiB\n", "team.wasm  1234 KiB") && same("a  5.1 µs  7\n", "a 63.0 µs 7"));
    assert!(same("a\n…\nd\n", "a\nb\nc\nd\n") && same("a\n…\n", "a\n") && !same("a\n…\n", "b\n"));
    assert!(!same("2 passed, 1 failed", "3 passed, 0 failed") && !same("a\n", "a\nb\n"));
}
