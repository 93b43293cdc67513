//! A built policy on the command line: its file, and what lies beside it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Failure;
use crate::config::Surroundings;
use crate::decision::PolicyRef;
use crate::policy::compile::{Compiler, Shelf};
use crate::policy::explore::Question;
use crate::policy::fixture::Fixtures;
use crate::policy::manifest::Manifest;
use crate::policy::measure::{Costs, Counter};
use crate::policy::{Compiled, Engine};

/// `NAME.wasm` with its `NAME.toml` and `NAME.fixtures.toml`; a candidate, `NAME.next.wasm`, may share those of `NAME`.
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// The tier's name.
    pub(super) name: String,
    bytes: Vec<u8>,
    manifest: Manifest,
    manifest_path: PathBuf,
    pub(super) fixtures: Option<Fixtures>,
}

/// A policy that runs as it would be served.
pub(super) struct Ready {
    pub(super) compiled: Compiled,
    /// The operator's values and the defaults.
    pub(super) settings: Vec<(String, String)>,
    /// Those that fixtures run under, where a case does not say.
    pub(super) settings_of_fixtures: Vec<(String, String)>,
    pub(super) reference: PolicyRef,
}

/// Compiles in a child, as a host does it: what takes too much there is refused here. What was compiled once is there for
/// the next command of this user.
pub(super) fn compiler() -> Compiler {
    let Surroundings { program, cache, here, .. } = Surroundings::of_this_process();
    Compiler::of_a_command(program, cache.zip(here).and_then(|(cache, here)| Shelf::of_the_user(&cache, &here)))
}

impl Source {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = fs::read(path).map_err(|error| {
            fault(path, &error)
                .hint("name a built policy, NAME.wasm; `tollgate policy build PATH --out DIR` builds some")
        })?;
        let (manifest_path, manifest) = beside(path, "toml")?;
        let manifest = Manifest::parse(&manifest.unwrap_or_default()).map_err(|error| fault(&manifest_path, &error))?;
        let (fixtures_path, fixtures) = beside(path, "fixtures.toml")?;
        let fixtures = fixtures.map(|text| Fixtures::parse(&text)).transpose();
        let fixtures = fixtures.map_err(|error| fault(&fixtures_path, &error))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = stem.strip_suffix(".next").unwrap_or(&stem).to_owned();
        Ok(Self { path: path.to_owned(), name, bytes, manifest, manifest_path, fixtures })
    }

    /// Compiles it, under the limits of production.
    pub(super) fn compile(&self, engine: &Engine, workshop: &Compiler) -> Result<Ready, Failure> {
        let in_manifest = |error| fault(&self.manifest_path, &error);
        let limits = self.manifest.limits().map_err(in_manifest)?;
        let compiled = engine.compile_by(workshop, &self.bytes, limits);
        let compiled = compiled.map_err(|error| fault(&self.path, &error))?;
        let description = compiled.describe().map_err(|error| fault(&self.path, &error))?;
        let settings = self.manifest.resolve(&description).map_err(in_manifest)?;
        compiled.validate_settings(&settings).map_err(in_manifest)?;
        let settings_of_fixtures = Manifest::for_fixtures(&description, &settings);
        let reference = PolicyRef { name: self.name.as_str().into(), digest: compiled.digest().clone() };
        Ok(Ready { compiled, settings, settings_of_fixtures, reference })
    }

    /// Counts what it takes to answer.
    pub(super) fn costs(
        &self,
        counter: &Counter,
        compiler: &Compiler,
        questions: &[Question],
    ) -> Result<Costs, Failure> {
        let limits = self.manifest.limits().map_err(|error| fault(&self.manifest_path, &error))?;
        counter.costs(compiler, &self.bytes, limits, questions).map_err(|error| fault(&self.path, &error))
    }
}

/// The text beside a policy, and where it is, or would be.
fn beside(component: &Path, extension: &str) -> Result<(PathBuf, Option<String>), Failure> {
    let own = component.with_extension(extension);
    let stem = component.file_stem().unwrap_or_default().to_string_lossy();
    let shared = stem.strip_suffix(".next").map(|name| component.with_file_name(format!("{name}.{extension}")));
    for path in std::iter::once(own.clone()).chain(shared) {
        match fs::read_to_string(&path) {
            Ok(text) => return Ok((path, Some(text))),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(fault(&path, &error)),
        }
    }
    Ok((own, None))
}

fn fault(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}
