//! The real binary, in a process of its own, with the machine's clock.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Answer, Scratch};

/// After so long something has gone wrong for good.
const PATIENCE: Duration = Duration::from_secs(60);

fn command(home: &Scratch, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(arguments).current_dir(home.path()).env_clear().env("NO_COLOR", "1");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(environment.iter().copied());
    command
}

/// Runs a command to its end, in an empty folder and with this environment only.
pub fn tollgate(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    command(&Scratch::new(), arguments, environment).output().expect("the binary")
}

/// A gate that serves.
pub struct Binary {
    child: Child,
    pub url: String,
    client: reqwest::Client,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<()>,
    _home: Scratch,
}

/// A gate that has ended by itself.
pub struct Finished {
    pub code: Option<i32>,
    /// Its log, a line each.
    pub log: Vec<Value>,
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
                    let _ = tell.send(Ok(url.trim().to_owned()));
                }
                text.push_str(&line);
                text.push('\n');
            }
            // It has ended; whoever still waits for it should know why.
            let _ = tell.send(Err(text));
        });
        let url = match told.recv_timeout(PATIENCE) {
            Ok(Ok(url)) => url,
            Ok(Err(text)) => panic!("the gate did not start: {text}"),
            Err(_) => panic!("the gate does not say that it listens"),
        };
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { child, url, client, stdout, stderr, _home: home }
    }

    pub async fn send(&self, method: &str, path: &str, body: Value) -> Answer {
        let method = method.parse().expect("a method");
        Answer::of(self.client.request(method, format!("{}{path}", self.url)).json(&body)).await
    }

    /// The process's id.
    pub fn id(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// Ctrl-C, and the end.
    pub fn interrupt(mut self) -> Finished {
        kill(Pid::from_raw(self.id()), Signal::SIGINT).expect("a running gate");
        let code = self.child.wait().expect("its end").code();
        self.stderr.join().expect("its stderr");
        let log = self.stdout.join().expect("its stdout");
        let log = log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON line: {line}")));
        Finished { code, log: log.collect() }
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("a running gate");
        self.child.wait().expect("its end");
    }
}
