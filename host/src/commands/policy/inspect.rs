//! `policy inspect`: what a component is, and whether a host with this folder would take it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::components;
use crate::commands::source::compiler;
use crate::commands::{Failure, shown};
use crate::policy::limits::{Limits, Wasi};
use crate::policy::{Engine, Inspection, PolicyError};
use crate::quota::Tier;

pub(super) fn inspect(paths: &[PathBuf], as_json: bool) -> Result<(), Failure> {
    let (engine, compiler) = (Engine::new()?, compiler());
    let mut refused = 0;
    let mut all = Vec::new();
    for component in components(paths)? {
        let inspection = Inspection::open(&engine, &compiler, &component)
            .map_err(|error| Failure::new(format!("{}: {error}", shown(&component))))?;
        let verdict = verdict(&component, &inspection);
        if verdict.is_err() {
            refused += 1;
        }
        if as_json {
            all.push(document(&component, &inspection, &verdict));
        } else {
            println!("{}", shown(&component));
            for (label, value) in lines(&inspection, &verdict) {
                // A long reason stays in its column.
                println!("  {label:9} {}", value.replace('\n', "\n            "));
            }
        }
    }
    if as_json {
        println!("{}", json!({ "policies": all }));
    }
    match refused {
        0 => Ok(()),
        1 => Err(Failure { exit: 1, ..Failure::new("a host would refuse 1 policy") }),
        many => Err(Failure { exit: 1, ..Failure::new(format!("a host would refuse {many} policies")) }),
    }
}

/// What a host would say of it: how many fixtures it passed, or why it does not serve.
fn verdict(component: &Path, inspection: &Inspection) -> Result<usize, PolicyError> {
    let name = component.file_stem().unwrap_or_default().to_string_lossy();
    let tier = name.strip_suffix(".next").unwrap_or(&name);
    if let Err(fault) = Tier::parse(tier) {
        return Err(PolicyError::Load(format!("its file's name is that of no tier: {fault}")));
    }
    let trial = inspection.trial.as_ref().map_err(PolicyError::clone)?;
    trial.pass()
}

fn lines(inspection: &Inspection, verdict: &Result<usize, PolicyError>) -> Vec<(&'static str, String)> {
    let Inspection { anatomy, limits, trial } = inspection;
    let mut lines = vec![(
        "accepted",
        match verdict {
            Ok(0) => "yes; it has no fixtures".to_owned(),
            Ok(passed) => format!("yes; {passed} fixtures passed"),
            Err(error) => format!("no ({}): {error}", error.kind()),
        },
    )];
    if let Ok(trial) = trial {
        let description = trial.description();
        lines.push(("policy", format!("{} {}", description.name, description.version)));
        lines.push(("summary", description.summary.clone()));
    }
    if let Ok(anatomy) = anatomy {
        lines.push(("exports", listed(&anatomy.exports)));
        lines.push(("imports", listed(&anatomy.imports)));
        lines.push(("size", format!("{}, of at most {} MiB", kib(anatomy.size as u64), limits.max_size_mib)));
        lines.push(("digest", anatomy.digest.clone()));
        let initial = anatomy.initial_memory.map_or_else(|| "unknown".to_owned(), kib);
        lines.push(("memory", format!("{initial} at the start, at most {} MiB", limits.memory_mib)));
    }
    lines.push(("deadline", format!("{} ms", limits.timeout.as_millis())));
    if limits.wasi == Wasi::Sandbox {
        lines.push(("wasi", "sandbox".to_owned()));
    }
    if let Ok(trial) = trial {
        let specs = &trial.description().settings;
        if specs.is_empty() {
            lines.push(("settings", "none".to_owned()));
        }
        for (index, (spec, (name, value))) in specs.iter().zip(trial.settings()).enumerate() {
            let default = match &spec.default_value {
                Some(default) if default == value => String::new(),
                Some(default) => format!("   (default {default:?})"),
                None => "   (required)".to_owned(),
            };
            let label = if index == 0 { "settings" } else { "" };
            lines.push((label, format!("{name} = {value:?}{default}\n  {}", spec.summary)));
        }
    }
    lines
}

fn document(component: &Path, inspection: &Inspection, verdict: &Result<usize, PolicyError>) -> Value {
    let Inspection { anatomy, limits, trial } = inspection;
    let Limits { timeout, memory_mib, max_size_mib, wasi } = limits;
    let refused = verdict.as_ref().err();
    let anatomy = anatomy.as_ref().ok();
    let trial = trial.as_ref().ok();
    let description = trial.map(|trial| {
        let description = trial.description();
        let settings: Vec<Value> = (description.settings.iter().zip(trial.settings()))
            .map(|(spec, (name, value))| {
                json!({ "name": name, "value": value, "default": spec.default_value, "summary": spec.summary })
            })
            .collect();
        json!({ "name": description.name, "version": description.version, "summary": description.summary,
            "settings": settings })
    });
    json!({
        "file": shown(component),
        "accepted": refused.is_none(),
        "fixturesPassed": verdict.as_ref().ok(),
        "refusal": refused.map(|error| json!({ "kind": error.kind(), "message": error.to_string() })),
        "description": description,
        "digest": anatomy.map(|anatomy| &anatomy.digest),
        "sizeBytes": anatomy.map(|anatomy| anatomy.size),
        "exports": anatomy.map(|anatomy| &anatomy.exports),
        "imports": anatomy.map(|anatomy| &anatomy.imports),
        "initialMemoryBytes": anatomy.and_then(|anatomy| anatomy.initial_memory),
        "limits": {
            "timeoutMs": u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            "memoryMib": memory_mib,
            "maxSizeMib": max_size_mib,
            "wasi": if *wasi == Wasi::Sandbox { "sandbox" } else { "deny" },
        },
    })
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join("\n") }
}

fn kib(bytes: u64) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}
