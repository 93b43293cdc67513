//! A recording of a terminal in the format of asciinema, version 2: what a reader of a page types, and what is said.
//!
//! The commands' times are what they took. A reader who types and reads is made up: so many keys a second, and a pause
//! after each command, or there would be nothing to see.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::page::Event;

const KEY: Duration = Duration::from_millis(25);
/// Of a file's change; a line is there at once.
const LINE: Duration = Duration::from_millis(150);
const READING: Duration = Duration::from_millis(2_500);
const DIM: &str = "\u{1b}[2m";
const GREEN: &str = "\u{1b}[32m";
const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

pub struct Tape {
    now: Duration,
    /// When the command that runs was started.
    started: Duration,
    /// Whether the cursor stands at the beginning of a line.
    at_start: bool,
    text: String,
}

impl Tape {
    pub fn new(title: &str) -> Self {
        let header = json!({ "version": 2, "width": 110, "height": 32, "idle_time_limit": 3, "title": title });
        Self { now: Duration::ZERO, started: Duration::ZERO, at_start: true, text: format!("{header}\n") }
    }

    pub fn take(&mut self, event: &Event<'_>) {
        match event {
            Event::Typed(command) => {
                self.print(&format!("{GREEN}${PLAIN} "));
                for (n, line) in command.trim_end().lines().enumerate() {
                    if n > 0 {
                        self.print("\n");
                    }
                    let mut keys = [0; 4];
                    for key in line.chars() {
                        self.now += KEY;
                        self.print(key.encode_utf8(&mut keys));
                    }
                }
                self.print("\n");
                self.started = self.now;
            }
            Event::Said(after, text) => {
                self.now = self.now.max(self.started + *after);
                self.print(text);
            }
            Event::Ended(after) => {
                self.now = self.now.max(self.started + *after);
                let line = if self.at_start { "" } else { "\n" };
                let took = format!("{}.{:02} s", after.as_secs(), after.subsec_millis() / 10);
                self.print(&format!("{line}{DIM}{took}{PLAIN}\n\n"));
                self.now += READING;
            }
            Event::Edited(file, diff) => {
                self.print(&format!("{DIM}# in an editor: {file}{PLAIN}\n"));
                for line in diff.lines() {
                    self.now += LINE;
                    let colour = match line.as_bytes().first() {
                        Some(b'+') => GREEN,
                        Some(b'-') => RED,
                        _ => "",
                    };
                    self.print(&format!("{colour}{line}{PLAIN}\n"));
                }
                self.print("\n");
                self.now += READING;
            }
        }
    }

    /// The recording as a file's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn print(&mut self, said: &str) {
        self.at_start = said.ends_with('\n');
        let said = json!(said.replace('\n', "\r\n"));
        let (seconds, micros) = (self.now.as_secs(), self.now.subsec_micros());
        writeln!(self.text, "[{seconds}.{micros:06}, \"o\", {said}]").expect("a text takes everything");
    }
}
