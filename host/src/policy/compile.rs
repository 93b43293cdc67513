//! Compiling: in a child process, within limits of memory and time; and the compiled code that is kept.
//!
//! Compiling is the one step whose cost the guest chooses and that cannot be interrupted. So it is done by this program
//! again, as a child: the component goes to its stdin, the code comes back over its stdout, and whatever takes too much
//! ends there. The child bounds resources. It is no second sandbox: the code that it returns is trusted, as is that of
//! a compiler in this process.
//!
//! Code is kept by the digest of the component and all that its engine depends on, behind a checksum. It is machine code:
//! it is read from our own directory, which nobody else may write to, and never from the policy folder.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::hash::{Hash as _, Hasher};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use sha2::{Digest as _, Sha256};
use wasmtime::Engine as Wasmtime;
use wasmtime::component::Component;

use super::engine::{self, PolicyError};

/// The hidden command of the program that compiles.
pub const COMMAND: &str = "compile-policy";
/// Code that nothing uses now, and that is kept for a way back.
const UNUSED_KEPT: usize = 32;
const EXTENSION: &str = "compiled";
const CHECKSUM: usize = 32;
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
    kept_in: Option<PathBuf>,
    /// The files that were read or written since the last [`Compiler::prune`] kept them.
    used: Mutex<BTreeSet<PathBuf>>,
}

impl Compiler {
    /// Compiles with `program`, if there is one, and keeps the code in `kept_in`, if that is said.
    pub fn new(program: Option<PathBuf>, limits: CompileLimits, kept_in: Option<PathBuf>) -> Self {
        Self { program, limits, kept_in, used: Mutex::default() }
    }

    /// The component of `bytes`: from the code that was kept, else compiled.
    pub(super) fn component(&self, engine: &Wasmtime, bytes: &[u8]) -> Result<Component, PolicyError> {
        let kept = self.kept_in.as_ref().map(|dir| dir.join(format!("{}.{EXTENSION}", key(engine, bytes))));
        if let Some(file) = &kept {
            self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(file.clone());
            if let Some(component) = read(file).and_then(|code| load(engine, &code).ok()) {
                return Ok(component);
            }
        }
        let code = match &self.program {
            Some(program) => in_a_child(program, self.limits, bytes)?,
            None => engine
                .precompile_component(bytes)
                .map_err(|error| PolicyError::Load(format!("does not compile: {error:#}")))?,
        };
        let component = load(engine, &code)
            .map_err(|error| PolicyError::Load(format!("does not fit the gate's limits: {error:#}")))?;
        if let Some(file) = kept
            && let Err(error) = write(&file, &code)
        {
            tracing::warn!(file = %file.display(), reason = %error, "Compiled code not kept");
        }
        Ok(component)
    }

    /// Removes code that nothing has asked for since the last time, but for the newest.
    pub(super) fn prune(&self) {
        let Some(dir) = &self.kept_in else { return };
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        let mut unused: Vec<_> = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|file| !used.contains(file))
            .filter_map(|file| Some((fs::metadata(&file).ok()?.modified().ok()?, file)))
            .collect();
        unused.sort();
        for (_, file) in unused.iter().rev().skip(UNUSED_KEPT) {
            // One that stays is in nobody's way.
            let _ = fs::remove_file(file);
        }
    }
}

/// The digest of all that decides what the code is: the component, the engine's version and settings.
fn key(engine: &Wasmtime, bytes: &[u8]) -> String {
    struct Into256(Sha256);
    impl Hasher for Into256 {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut hasher = Into256(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.update(Sha256::digest(bytes));
    engine::hexadecimal(&hasher.0.finalize())
}

/// Machine code, as it is.
#[allow(unsafe_code)]
fn load(engine: &Wasmtime, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `code` must be what `precompile_component` returned. It comes from there, from a child that runs this
    // program, or from a file in our own directory that was written with one of them and still has its checksum; the
    // engine itself refuses code of another version or other settings.
    unsafe { Component::deserialize(engine, code) }
}

/// Code that was kept, if it is whole.
fn read(file: &Path) -> Option<Vec<u8>> {
    let mut code = fs::read(file).ok()?;
    if code.len() < CHECKSUM {
        return None;
    }
    let checksum: Vec<u8> = code.drain(..CHECKSUM).collect();
    (Sha256::digest(&code)[..] == checksum[..]).then_some(code)
}

fn write(file: &Path, code: &[u8]) -> std::io::Result<()> {
    if let Some(dir) = file.parent() {
        // Whoever can write there decides what this process runs.
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    super::build::replace_file(file, &[&Sha256::digest(code)[..], code].concat())
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
