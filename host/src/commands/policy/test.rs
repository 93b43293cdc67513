//! `policy test`: fixtures, by the code that serves, under the limits of production.

use std::fs;
use std::path::{Path, PathBuf};

use super::components;
use crate::commands::{Failure, shown};
use crate::policy::engine::Engine;
use crate::policy::fixture::Fixtures;
use crate::policy::manifest::Manifest;

pub(super) fn test(paths: &[PathBuf]) -> Result<(), Failure> {
    let engine = Engine::new()?;
    let (mut passed, mut failed) = (0, 0);
    for component in components(paths)? {
        println!("{}", shown(&component));
        for (name, differences) in test_one(&engine, &component)? {
            println!("  {} {name}", if differences.is_empty() { "ok    " } else { "FAILED" });
            for difference in &differences {
                println!("         {difference}");
            }
            if differences.is_empty() { passed += 1 } else { failed += 1 }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        return Ok(());
    }
    Err(Failure { exit: 1, ..Failure::new(format!("{failed} fixtures failed")) })
}

/// The cases of one policy, each with what differs.
fn test_one(engine: &Engine, component: &Path) -> Result<Vec<(String, Vec<String>)>, Failure> {
    let fault = |path: &Path, error: String| Failure::new(format!("{}: {error}", path.display()));
    let beside = |extension: &str| component.with_extension(extension);
    let text = |path: &Path| match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(|error| fault(path, error.to_string())),
    };
    let manifest_path = beside("toml");
    let manifest = Manifest::parse(&text(&manifest_path)?.unwrap_or_default())
        .map_err(|error| fault(&manifest_path, error.to_string()))?;
    let fixtures_path = beside("fixtures.toml");
    let fixtures = text(&fixtures_path)?.ok_or_else(|| {
        fault(&fixtures_path, "not there".to_owned()).hint("a policy's fixtures lie beside it, as NAME.fixtures.toml")
    })?;
    let fixtures = Fixtures::parse(&fixtures).map_err(|error| fault(&fixtures_path, error))?;
    let bytes = fs::read(component).map_err(|error| fault(component, error.to_string()))?;
    let policy = engine.compile(&bytes, manifest.limits()?).map_err(|error| fault(component, error.to_string()))?;
    let description = policy.describe()?;
    let settings = manifest.resolve(&description).map_err(|error| fault(&manifest_path, error.to_string()))?;
    policy.validate_settings(&settings).map_err(|error| fault(&manifest_path, error.to_string()))?;
    let settings = Manifest::for_fixtures(&description, &settings);
    Ok(fixtures.run(&policy, &settings).into_iter().map(|case| (case.name, case.differences)).collect())
}
