//! Compiling: in a child process, within limits of memory and time; and the compiled code that is kept.
//!
//! Compiling is the one step whose cost the guest chooses and that cannot be interrupted. So it is done by this program
//! again, as a child: the component goes to its stdin, the code comes back over its stdout, and whatever takes too much
//! ends there. The child bounds resources. It is no second sandbox: the code that it returns is trusted, as is that of
//! a compiler in this process.
//!
//! What was compiled is kept on a [`Shelf`].

mod shelf;

use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use wasmtime::Engine as Wasmtime;
use wasmtime::component::Component;

pub use self::shelf::Shelf;
use super::engine::{self, PolicyError};

/// The hidden command of the program that compiles.
pub const COMMAND: &str = "compile-policy";
/// Of what the child says on stderr.
const LONGEST_COMPLAINT: u64 = 16 << 10;

/// What compiling one policy may take.
#[derive(Clone, Copy, Debug)]
pub struct CompileLimits {
    /// Address space of the child, in MiB.
    pub memory_mib: u64,
    /// Processor time, in seconds.
    pub cpu_seconds: u64,
    /// From its start to its answer.
    pub wall: Duration,
}

impl Default for CompileLimits {
    /// Enough for a JavaScript or Python guest of 18 MB on a slow machine; a Rust policy takes milliseconds.
    fn default() -> Self {
        Self { memory_mib: 4_096, cpu_seconds: 120, wall: Duration::from_mins(4) }
    }
}

/// Where and how policies are compiled; by default in this process, and nothing is kept.
#[derive(Debug, Default)]
pub struct Compiler {
    /// The program that is started as a child; this process compiles where there is none.
    program: Option<PathBuf>,
    /// The child's.
    limits: CompileLimits,
    /// Where compiled code is kept.
    shelf: Option<Shelf>,
}

impl Compiler {
    /// Compiles with `program`, if there is one, and keeps the code in `kept_in`, if that is said.
    pub fn new(program: Option<PathBuf>, limits: CompileLimits, kept_in: Option<PathBuf>) -> Self {
        Self { program, limits, shelf: kept_in.map(Shelf::new) }
    }

    /// As [`Compiler::new`], for commands: the code is kept for the next of them, if there is a place for it.
    pub fn of_a_command(program: Option<PathBuf>, shelf: Option<Shelf>) -> Self {
        Self { program, limits: CompileLimits::default(), shelf }
    }

    /// In this process, for an engine that is other than the child's.
    pub(super) fn without_child(&self) -> Self {
        Self { program: None, limits: self.limits, shelf: self.shelf.clone() }
    }

    /// The component of `bytes`: from the code that was kept, else compiled.
    pub(super) fn component(&self, engine: &Wasmtime, bytes: &[u8]) -> Result<Component, PolicyError> {
        let kept = self.shelf.as_ref().map(|shelf| (shelf, shelf.file(engine, bytes)));
        let known = kept.as_ref().and_then(|(_, file)| load(engine, &Shelf::read(file)?).ok());
        if let Some(component) = known {
            return Ok(component);
        }
        let code = match &self.program {
            Some(program) => in_a_child(program, self.limits, bytes)?,
            None => engine
                .precompile_component(bytes)
                .map_err(|error| PolicyError::Load(format!("does not compile: {error:#}")))?,
        };
        let component = load(engine, &code)
            .map_err(|error| PolicyError::Load(format!("does not fit the gate's limits: {error:#}")))?;
        if let Some((shelf, file)) = kept
            && let Err(error) = shelf.write(&file, &code)
        {
            tracing::warn!(file = %file.display(), reason = %error, "Compiled code not kept");
        }
        Ok(component)
    }

    /// Removes code that nothing has asked for since the last time, but for the newest.
    pub(super) fn prune(&self) {
        if let Some(shelf) = &self.shelf {
            shelf.prune();
        }
    }
}

/// Machine code, as it is.
#[allow(unsafe_code)]
fn load(engine: &Wasmtime, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `code` must be what `precompile_component` returned. It comes from there, from a child that runs this
    // program, or from a file in our own directory that was written with one of them and still has its checksum; the
    // engine itself refuses code of another version or other settings.
    unsafe { Component::deserialize(engine, code) }
}

/// Runs this program's other half on `bytes`.
fn in_a_child(program: &Path, limits: CompileLimits, bytes: &[u8]) -> Result<Vec<u8>, PolicyError> {
    let unready = |error: std::io::Error| PolicyError::Unready(format!("the compiler does not start: {error}"));
    let mut child = Command::new(program)
        .arg(COMMAND)
        .args(["--memory-mib", &limits.memory_mib.to_string(), "--cpu-seconds", &limits.cpu_seconds.to_string()])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(unready)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        // A child that ends early breaks the pipe, and its status says why.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(bytes)));
        let complaint = scope.spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.map(|stderr| stderr.take(LONGEST_COMPLAINT).read_to_end(&mut text));
            String::from_utf8_lossy(&text).trim().trim_start_matches("error: ").to_owned()
        });
        scope.spawn(move || {
            let mut code = Vec::new();
            let read = stdout.map_or(Ok(0), |mut stdout| stdout.read_to_end(&mut code));
            let _ = tell.send(read.map(|_| code));
        });
        let code = told.recv_timeout(limits.wall);
        if code.is_err() {
            let _ = child.kill();
        }
        let status = child.wait().map_err(unready)?;
        let complaint = complaint.join().unwrap_or_default();
        match code {
            Err(_) => Err(PolicyError::Unready(format!("not compiled within {} ms", limits.wall.as_millis()))),
            Ok(Err(error)) => Err(unready(error)),
            Ok(Ok(code)) if status.success() => Ok(code),
            Ok(Ok(_)) => Err(failure(status, &complaint, limits)),
        }
    })
}

/// How a process ends that gets no more memory: on the heap, or (`ENOMEM`) for a thread that it starts.
const OUT_OF_MEMORY: [&str; 2] = ["memory allocation of", "(os error 12)"];

/// What the child's end says of the component.
fn failure(status: ExitStatus, complaint: &str, limits: CompileLimits) -> PolicyError {
    let signal = status.signal().and_then(|number| Signal::try_from(number).ok());
    match (status.code(), signal) {
        (Some(1), _) => PolicyError::Load(complaint.to_owned()),
        (_, Some(Signal::SIGXCPU)) => PolicyError::Load(format!(
            "takes more than {} s of processor time to compile; make it smaller",
            limits.cpu_seconds
        )),
        _ if OUT_OF_MEMORY.iter().any(|words| complaint.contains(words)) => PolicyError::Load(format!(
            "takes more than {} MiB of memory to compile; make it smaller",
            limits.memory_mib
        )),
        // Somebody else's doing, such as a system that is out of memory.
        (_, Some(Signal::SIGKILL | Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP)) | (Some(2), _) => {
            PolicyError::Unready(format!("the compiler was stopped ({status}) {complaint}").trim_end().to_owned())
        }
        _ => PolicyError::Load(format!("the compiler failed on it ({status}): {complaint}")),
    }
}

/// Why the child has no code to return.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The component does not compile.
    #[error("does not compile: {0}")]
    Component(String),
    /// The child could not do its work.
    #[error("{0}")]
    Surroundings(String),
}

/// The child: takes its limits, reads a component from stdin, and writes its code to stdout.
///
/// # Errors
/// The component does not compile, or the limits cannot be set.
pub fn child(memory_mib: u64, cpu_seconds: u64) -> Result<(), ChildError> {
    let surroundings = |error: &dyn std::fmt::Display| ChildError::Surroundings(error.to_string());
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| surroundings(&error))?;
    let memory = memory_mib << 20;
    for (resource, soft, hard) in [
        (Resource::RLIMIT_AS, memory, memory),
        (Resource::RLIMIT_CPU, cpu_seconds, cpu_seconds + 1),
        // A bomb's memory is not worth a file.
        (Resource::RLIMIT_CORE, 0, 0),
    ] {
        setrlimit(resource, soft, hard).map_err(|error| surroundings(&format!("{resource:?}: {error}")))?;
    }
    let mut component = Vec::new();
    std::io::stdin().read_to_end(&mut component).map_err(|error| surroundings(&error))?;
    let engine = engine::compiling_engine().map_err(|error| surroundings(&error))?;
    let code = engine.precompile_component(&component).map_err(|error| ChildError::Component(format!("{error:#}")))?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&code).and_then(|()| stdout.flush()).map_err(|error| surroundings(&error))
}
