//! Building guests: a policy crate → a core module → a component with no imports; a package in JavaScript or a module in
//! Python → a component, by the language's own tool.

mod javascript;
mod python;
mod rust;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::quota::Tier;

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
        // What is not there is for the language's tool to say.
        if path.is_file() {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return Err(BuildError::new(format!("{}: a file; a policy is built from its folder", path.display()))
                .hint(format!("`tollgate policy build {} --out {}`", folder.display(), out.display())));
        }
        if javascript::is_one(path) {
            built.push(Source::of(path)?.build(javascript::componentize, out)?);
        } else if python::is_one(path) {
            built.push(Source::of(path)?.build(python::componentize, out)?);
        } else {
            built.append(&mut rust::build(path, out, home)?);
        }
    }
    built.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(built)
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
