//! A policy crate → a core module, by cargo → a component with no imports.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use wit_component::ComponentEncoder;

use super::{BuildError, Built, install};

const TARGET: &str = "wasm32-unknown-unknown";
/// One page of stack is plenty for a decision, and a small memory is what makes fresh instances cheap.
const STACK: &str = "-Clink-arg=-zstack-size=16384";

/// Builds the crates of `path`, a crate or a workspace.
pub(super) fn build(path: &Path, out: &Path, home: Option<&Path>) -> Result<Vec<Built>, BuildError> {
    ensure_target()?;
    let modules = compile(path, home)?;
    if modules.is_empty() {
        return Err(BuildError::new(format!("{} has no policy crate", path.display()))
            .hint("a policy crate has `crate-type = [\"cdylib\"]` in its Cargo.toml"));
    }
    modules.into_iter().map(|module| module.install(out)).collect()
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
