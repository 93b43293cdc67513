//! The real binary, in a process of its own, with the machine's clock: the one that was built for the tests, or
//! `TOLLGATE_BIN`.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Answer, Scratch, shows_no_secret};

/// After so long something has gone wrong for good.
const PATIENCE: Duration = Duration::from_mins(1);

fn command<V: AsRef<OsStr>>(home: &Scratch, arguments: &[&str], environment: &[(&str, V)]) -> Command {
    let program = std::env::var_os("TOLLGATE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_tollgate").into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(home.path()).env_clear().env("NO_COLOR", "1");
    // What the commands cache is there for all tests, and not the user's.
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    command
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(SECRETS)
        .envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

/// Every process of the tests has these, used or not: nothing it says may contain the canary.
const SECRETS: [(&str, &str); 3] = [
    ("COST_ALERT_SLACK_WEBHOOK_URL", "https://hooks.slack.com/services/canary-7f3a9c"),
    ("COST_ALERT_PAGERDUTY_ROUTING_KEY", "canary-7f3a9c"),
    ("COST_ALERT_EMAIL_SMTP_PASSWORD", "canary-7f3a9c"),
];

/// Runs a command to its end, in an empty folder and with this environment only.
pub fn tollgate(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, OsStr::new(value))).collect();
    tollgate_os(arguments, &environment)
}

/// As [`tollgate`], with values that may be no texts.
pub fn tollgate_os(arguments: &[&str], environment: &[(&str, &OsStr)]) -> Output {
    let output = command(&Scratch::new(), arguments, environment).output().expect("the binary");
    for text in [&output.stdout, &output.stderr] {
        shows_no_secret(&String::from_utf8_lossy(text));
    }
    output
}

/// As [`tollgate`], with a stdout that is this, and not in the output.
pub fn tollgate_into(stdout: impl Into<Stdio>, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    command(&Scratch::new(), arguments, environment).stdout(stdout).output().expect("the binary")
}

/// As [`tollgate`], in a folder of the test's.
pub fn tollgate_in(folder: &Scratch, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    command(folder, arguments, environment).output().expect("the binary")
}

/// A command that goes on until it is ended, and the lines of its stdout as they come.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    _home: Scratch,
}

impl Running {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_in(&[], arguments)
    }

    /// In this environment.
    pub fn start_in(environment: &[(&str, &str)], arguments: &[&str]) -> Self {
        let home = Scratch::new();
        let mut child = command(&home, arguments, environment).stdout(Stdio::piped()).spawn().expect("the binary");
        let stdout = BufReader::new(child.stdout.take().expect("its stdout"));
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { child, lines, _home: home }
    }

    /// What it prints up to and with the line that contains `end`.
    pub fn until(&self, end: &str) -> String {
        let mut text = String::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {end:?} after {text}"));
            text.push_str(&line);
            text.push('\n');
            if line.contains(end) {
                return text;
            }
        }
    }

    /// Ctrl-C, and the end: its status.
    pub fn interrupt(mut self) -> Option<i32> {
        let id = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(id), Signal::SIGINT).expect("a running command");
        let since = Instant::now();
        loop {
            match self.child.try_wait().expect("its state") {
                Some(status) => return status.code(),
                None => assert!(since.elapsed() < PATIENCE, "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A gate that serves.
pub struct Binary {
    child: Owned,
    pub url: String,
    /// What it said on stderr before it listened.
    pub said: String,
    client: reqwest::Client,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
    _home: Scratch,
}

/// Ends with its test, however that ends: a gate that is left over works on the databases of the next run.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It has ended already, as a rule.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gate that has ended by itself.
pub struct Finished {
    pub code: Option<i32>,
    /// Its log, a line each, as it was written.
    pub log: Vec<String>,
    /// What it said on stderr.
    pub said: String,
}

impl Binary {
    /// Starts `tollgate` and waits until it says where it listens.
    pub fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let home = Scratch::new();
        let mut command = command(&home, arguments, environment);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
        let mut stdout = child.stdout.take().expect("its stdout");
        let stderr = BufReader::new(child.stderr.take().expect("its stderr"));
        let stdout = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).expect("a log in UTF-8");
            text
        });
        let (tell, told) = mpsc::channel();
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            for line in stderr.lines().map_while(Result::ok) {
                if let Some(url) = line.trim().strip_prefix("gate ") {
                    let _ = tell.send((Some(url.trim().to_owned()), text.clone()));
                }
                text.push_str(&line);
                text.push('\n');
            }
            // It has ended; whoever still waits for it should know why.
            let _ = tell.send((None, text.clone()));
            text
        });
        let (url, said) = told.recv_timeout(PATIENCE).expect("a gate that starts or says why not");
        let url = url.unwrap_or_else(|| panic!("the gate did not start: {said}"));
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { child: Owned(child), url, said, client, stdout, stderr, _home: home }
    }

    pub async fn send(&self, method: &str, path: &str, body: Value) -> Answer {
        let method = method.parse().expect("a method");
        Answer::of(self.client.request(method, format!("{}{path}", self.url)).json(&body)).await
    }

    /// A request that the test finishes itself.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// With a token.
    pub async fn send_as(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let method = method.parse().expect("a method");
        Answer::of(self.client.request(method, format!("{}{path}", self.url)).bearer_auth(token).json(&body)).await
    }

    /// The process's id.
    pub fn id(&self) -> i32 {
        i32::try_from(self.child.0.id()).expect("a process id")
    }

    /// Ctrl-C, and the end.
    pub fn interrupt(mut self) -> Finished {
        kill(Pid::from_raw(self.id()), Signal::SIGINT).expect("a running gate");
        let code = self.child.0.wait().expect("its end").code();
        let said = self.stderr.join().expect("its stderr");
        let log: Vec<String> = self.stdout.join().expect("its stdout").lines().map(str::to_owned).collect();
        shows_no_secret(&said);
        for line in &log {
            shows_no_secret(line);
            let parsed: Result<Value, _> = serde_json::from_str(line);
            assert!(parsed.is_ok_and(|line| line.is_object()), "no JSON line: {line}");
        }
        Finished { code, log, said }
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.0.kill().expect("a running gate");
        self.child.0.wait().expect("its end");
    }
}
