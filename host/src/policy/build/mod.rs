//! Building guests: a policy crate → a core module → a component with no imports; a package in JavaScript or a module in
//! Python → a component, by the language's own tool.

mod javascript;
mod python;

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::Deserialize;
use wit_component::ComponentEncoder;

use crate::quota::Tier;

const TARGET: &str = "wasm32-unknown-unknown";
/// One page of stack is plenty for a decision, and a small memory is what makes fresh instances cheap.
const STACK: &str = "-Clink-arg=-zstack-size=16384";

/// Why a guest was not built: what failed, and what to do next.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct BuildError {
    what: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl BuildError {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A policy as it was written to the folder.
#[derive(Debug)]
pub struct Built {
    /// The package's name.
    pub name: String,
    /// `OUT/NAME.wasm`.
    pub file: PathBuf,
    /// Size of the component in bytes.
    pub size: usize,
}

/// Builds every policy below `paths` (crates or workspaces of them, packages in JavaScript, modules in Python) into `out`:
/// `NAME.wasm`, and `NAME.toml` and `NAME.fixtures.toml` where the source has them. Adds the compiler's target where it is missing.
/// `home` is the builder's, whose path is kept out of the component.
///
/// # Errors
/// A tool is missing, a crate does not compile, or a module is no policy.
pub fn build(paths: &[PathBuf], out: &Path, home: Option<&Path>) -> Result<Vec<Built>, BuildError> {
    fs::create_dir_all(out).map_err(|error| BuildError::new(format!("cannot create {}: {error}", out.display())))?;
    let mut built = Vec::new();
    for path in paths {
        if javascript::is_one(path) {
            built.push(Source::of(path)?.build(javascript::componentize, out)?);
        } else if python::is_one(path) {
            built.push(Source::of(path)?.build(python::componentize, out)?);
        } else {
            built.append(&mut crates(path, out, home)?);
        }
    }
    built.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(built)
}

fn crates(path: &Path, out: &Path, home: Option<&Path>) -> Result<Vec<Built>, BuildError> {
    ensure_target()?;
    let modules = compile(path, home)?;
    if modules.is_empty() {
        return Err(BuildError::new(format!("{} has no policy crate", path.display()))
            .hint("a policy crate has `crate-type = [\"cdylib\"]` in its Cargo.toml"));
    }
    modules.into_iter().map(|module| module.install(out)).collect()
}

/// The interface, as this host has it.
const WIT: &str = include_str!("../../../../wit/policy.wit");

/// A policy in another language: a folder, called as the policy.
struct Source {
    name: String,
    folder: PathBuf,
    /// Where the interface is for its tool.
    wit: PathBuf,
    /// Where its tool puts the component.
    component: PathBuf,
}

impl Source {
    fn of(folder: &Path) -> Result<Self, BuildError> {
        let fault = |what: String| BuildError::new(format!("{}: {what}", folder.display()));
        let folder = folder.canonicalize().map_err(|error| fault(error.to_string()))?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Tier::parse(&name).map_err(|what| fault(format!("a policy's folder is called as its tier: {what}")))?;
        let target = folder.join("target");
        let wit = target.join("policy.wit");
        fs::create_dir_all(&target)
            .and_then(|()| fs::write(&wit, WIT))
            .map_err(|error| fault(format!("cannot write {}: {error}", wit.display())))?;
        Ok(Self { component: target.join(format!("{name}.wasm")), name, folder, wit })
    }

    fn build(self, tool: fn(&Self) -> Result<(), BuildError>, out: &Path) -> Result<Built, BuildError> {
        tool(&self)?;
        let component = fs::read(&self.component)
            .map_err(|error| BuildError::new(format!("{}: {error}", self.component.display())))?;
        install(&self.name, &self.folder, &component, out)
    }
}

/// A tool that cannot be started, and how to get it.
fn missing(tool: &str, error: &io::Error, install: impl Into<String>) -> BuildError {
    let what = match error.kind() {
        io::ErrorKind::NotFound => format!("{tool} is not on this machine"),
        _ => format!("cannot run {tool}: {error}"),
    };
    BuildError::new(what).hint(install)
}

/// A core module that cargo made.
struct Module {
    name: String,
    crate_dir: PathBuf,
    file: PathBuf,
}

fn ensure_target() -> Result<(), BuildError> {
    let no_rustc = |error| {
        BuildError::new(format!("cannot run rustc: {error}")).hint("install Rust with rustup, https://rustup.rs")
    };
    let output =
        Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output().map_err(no_rustc)?;
    let libdir = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && Path::new(&libdir).is_dir() {
        return Ok(());
    }
    let by_hand = format!("run `rustup target add {TARGET}` and try again");
    let status =
        Command::new("rustup").args(["target", "add", TARGET]).stdout(Stdio::null()).status().map_err(|error| {
            BuildError::new(format!("the target {TARGET} is missing and rustup does not run: {error}")).hint(&by_hand)
        })?;
    if status.success() {
        return Ok(());
    }
    Err(BuildError::new(format!("rustup could not add the target {TARGET}")).hint(by_hand))
}

/// One line of cargo's JSON output; other messages have no target.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct CargoToml {
    package: Package,
}

#[derive(Deserialize)]
struct Package {
    name: String,
}

fn compile(path: &Path, home: Option<&Path>) -> Result<Vec<Module>, BuildError> {
    let path = path.canonicalize().map_err(|error| {
        BuildError::new(format!("{}: {error}", path.display())).hint("give the folder of a policy crate")
    })?;
    let manifest = path.join("Cargo.toml");
    let cannot_run = |error| BuildError::new(format!("cannot run cargo: {error}"));
    let mut cargo = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"])
        .arg("--manifest-path")
        .arg(&manifest)
        .current_dir(&path)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&path, home))
        // The flags of whoever builds the host are not meant for guests.
        .env_remove("RUSTFLAGS")
        .stdout(Stdio::piped())
        .spawn()
        .map_err(cannot_run)?;
    let mut modules = Vec::new();
    for line in cargo.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let Ok(message) = serde_json::from_str::<Message>(&line.map_err(cannot_run)?) else { continue };
        if message.reason != "compiler-artifact" {
            continue;
        }
        let module = message.filenames.into_iter().find(|file| file.extension().is_some_and(|e| e == "wasm"));
        if let (Some(file), Some(crate_dir)) = (module, message.manifest_path.parent())
            && crate_dir.starts_with(&path)
        {
            modules.push(Module { name: package_name(&message.manifest_path)?, crate_dir: crate_dir.into(), file });
        }
    }
    if cargo.wait().map_err(cannot_run)?.success() {
        return Ok(modules);
    }
    Err(BuildError::new(format!("{} does not compile; cargo's messages are above", path.display())))
}

/// The stack's size, and no path of this machine in the component: the same source gives the same digest.
fn rustflags(path: &Path, home: Option<&Path>) -> OsString {
    let mut flags = OsString::from(STACK);
    let outside = home.map(|home| (home, "/home"));
    for (from, to) in outside.into_iter().chain([(path.parent().unwrap_or(path), "/policies")]) {
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(from);
        flags.push(format!("={to}"));
    }
    flags
}

fn package_name(manifest: &Path) -> Result<String, BuildError> {
    let fault = |what: String| BuildError::new(format!("{}: {what}", manifest.display()));
    let text = fs::read_to_string(manifest).map_err(|error| fault(error.to_string()))?;
    toml::from_str::<CargoToml>(&text).map(|cargo| cargo.package.name).map_err(|error| fault(error.to_string()))
}

impl Module {
    fn install(self, out: &Path) -> Result<Built, BuildError> {
        let Self { name, crate_dir, file } = self;
        let no_policy = |error: String| {
            BuildError::new(format!("{name} is no policy: {error}"))
                .hint("export one with `tollgate_sdk::export!(YourPolicy);`")
        };
        let module = fs::read(&file).map_err(|error| BuildError::new(format!("{}: {error}", file.display())))?;
        let component = ComponentEncoder::default()
            .validate(true)
            .module(&module)
            .and_then(ComponentEncoder::encode)
            .map_err(|error| no_policy(format!("{error:#}")))?;
        install(&name, &crate_dir, &component, out)
    }
}

/// Writes the component, and the texts that lie beside its source.
fn install(name: &str, source: &Path, component: &[u8], out: &Path) -> Result<Built, BuildError> {
    let target = out.join(format!("{name}.wasm"));
    // What the component needs first: the folder may be read while we write.
    for extension in ["toml", "fixtures.toml"] {
        let companion = format!("{name}.{extension}");
        if let Ok(bytes) = fs::read(source.join(&companion)) {
            replace(&out.join(companion), &bytes)?;
        }
    }
    replace(&target, component)?;
    Ok(Built { name: name.to_owned(), file: target, size: component.len() })
}

/// Writes beside the file and renames, so that no reader sees half of it.
fn replace(file: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    replace_file(file, bytes).map_err(|error| BuildError::new(format!("cannot write {}: {error}", file.display())))
}

/// Writes beside the file, to the disk, and renames.
///
/// # Errors
/// The file system's.
pub fn replace_file(file: &Path, bytes: &[u8]) -> io::Result<()> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let mut beside = file.as_os_str().to_owned();
    beside.push(format!(".{}-{}.new", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
    let beside = PathBuf::from(beside);
    let written = fs::File::create(&beside)
        .and_then(|mut new| new.write_all(bytes).and_then(|()| new.sync_all()))
        .and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}
