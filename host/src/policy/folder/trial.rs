//! A policy on trial: read, compiled and asked to describe itself, as the gate before the gate does it. The folder makes a
//! [`Policy`](super::Policy) of one that passes; the author's commands show what it came to.

use std::path::Path;

use super::files::Files;
use super::policy::within;
use crate::policy::anatomy::Anatomy;
use crate::policy::bindings::Description;
use crate::policy::compile::Compiler;
use crate::policy::engine::{Compiled, Engine, PolicyError};
use crate::policy::fixture::{CaseResult, Fixtures};
use crate::policy::limits::Limits;
use crate::policy::manifest::Manifest;

/// A policy that loads, under its own limits and with its own settings.
pub struct Trial {
    pub(super) manifest: Manifest,
    pub(super) compiled: Compiled,
    pub(super) description: Description,
    pub(super) settings: Vec<(String, String)>,
    /// As text; empty where there are none.
    fixtures: String,
    name: String,
}

/// What a component is, whether or not the folder would take it.
pub struct Inspection {
    /// What it is made of; an error where it is no component.
    pub anatomy: Result<Anatomy, PolicyError>,
    /// What `NAME.toml` gives it; the defaults where that cannot be read.
    pub limits: Limits,
    /// Whether it loads.
    pub trial: Result<Trial, PolicyError>,
}

impl Trial {
    /// Reads `NAME.wasm` and what lies beside it, and loads it.
    ///
    /// # Errors
    /// Why the folder would refuse it, as the folder says it.
    pub fn open(engine: &Engine, workshop: &Compiler, component: &Path) -> Result<Self, PolicyError> {
        let (name, files) = read(component)?;
        Self::of(engine, workshop, &name, &files)
    }

    pub(super) fn of(engine: &Engine, workshop: &Compiler, name: &str, files: &Files) -> Result<Self, PolicyError> {
        let manifest = manifest(name, files)?;
        let limits = manifest.limits().map_err(|error| within(&manifest_of(name), error))?;
        let compiled = engine.compile_by(workshop, &files.component, limits)?;
        Self::with(name, files, manifest, compiled)
    }

    fn with(name: &str, files: &Files, manifest: Manifest, compiled: Compiled) -> Result<Self, PolicyError> {
        let description = compiled.describe()?;
        let settings = manifest.resolve(&description).map_err(|error| within(&manifest_of(name), error))?;
        compiled.validate_settings(&settings).map_err(|error| within("settings", error))?;
        Ok(Self { manifest, compiled, description, settings, fixtures: files.fixtures.clone(), name: name.to_owned() })
    }

    /// What ran: `sha256:…`.
    pub fn digest(&self) -> &str {
        self.compiled.digest()
    }

    /// What the policy says of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Every setting that it knows, in its order: the operator's value or the default.
    pub fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// Whether there is a case or a sequence to run beside it.
    ///
    /// # Errors
    /// As [`Trial::run`].
    pub fn has_fixtures(&self) -> Result<bool, PolicyError> {
        Ok(!self.read_fixtures()?.is_empty())
    }

    fn read_fixtures(&self) -> Result<Fixtures, PolicyError> {
        Fixtures::parse(&self.fixtures)
            .map_err(|fault| PolicyError::Load(format!("{}.fixtures.toml: {fault}", self.name)))
    }

    /// Runs its fixtures under its limits and its default settings.
    ///
    /// # Errors
    /// [`PolicyError::Load`] where the file cannot be read as fixtures.
    pub fn run(&self) -> Result<Vec<CaseResult>, PolicyError> {
        Ok(self.read_fixtures()?.run(&self.compiled, &Manifest::for_fixtures(&self.description, &self.settings)))
    }

    /// Its fixtures pass: tells how many there are.
    ///
    /// # Errors
    /// The failed fixtures; [`PolicyError::Unready`] where the policy was only late.
    pub fn pass(&self) -> Result<usize, PolicyError> {
        let mut failed = self.run()?;
        let cases = failed.len();
        failed.retain(|case| !case.passed());
        if failed.is_empty() {
            return Ok(cases);
        }
        let cases = failed.iter().map(|case| format!("{:?}: {}", case.name, case.told().join(", ")));
        let fixtures = if failed.len() == 1 { "fixture" } else { "fixtures" };
        let fault = format!("{} {fixtures} failed: {}", failed.len(), cases.collect::<Vec<_>>().join("; "));
        let was_late = failed.iter().all(|case| case.timed_out);
        Err(if was_late { PolicyError::Unready(fault) } else { PolicyError::Load(fault) })
    }
}

impl Inspection {
    /// Looks into `NAME.wasm`, and tries it as [`Trial::open`] does.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn open(engine: &Engine, workshop: &Compiler, component: &Path) -> Result<Self, PolicyError> {
        let (name, files) = read(component)?;
        let manifest = manifest(&name, &files).and_then(|manifest| {
            Ok((manifest.limits().map_err(|error| within(&manifest_of(&name), error))?, manifest))
        });
        let limits = manifest.as_ref().map(|(limits, _)| *limits).unwrap_or_default();
        let (anatomy, compiled) = engine.inspect(workshop, &files.component, limits);
        let trial = manifest.and_then(|(_, manifest)| Trial::with(&name, &files, manifest, compiled?));
        Ok(Self { anatomy, limits, trial })
    }
}

fn manifest(name: &str, files: &Files) -> Result<Manifest, PolicyError> {
    Manifest::parse(&files.manifest).map_err(|error| within(&manifest_of(name), error))
}

fn manifest_of(name: &str) -> String {
    format!("{name}.toml")
}

/// The policy's name and its files; a candidate's texts are those of `NAME` where it has none.
fn read(component: &Path) -> Result<(String, Files), PolicyError> {
    let stem = component.file_name().and_then(|file| file.to_str()).and_then(|file| file.strip_suffix(".wasm"));
    let stem = stem.ok_or_else(|| {
        PolicyError::Load("a policy's file is called NAME.wasm, with NAME the tier's name".to_owned())
    })?;
    let dir = component.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let files = match stem.strip_suffix(".next") {
        Some(name) => Files::read_candidate(dir, name),
        None => Files::read(dir, stem),
    };
    Ok((stem.to_owned(), files?))
}
