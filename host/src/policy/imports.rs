//! What a component imports: nothing, or WASI where the operator accepts it. Everything else is refused by name.

use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre, Linker};

use super::failure::PolicyError;
use super::limits::{Guard, Wasi};
use super::sandbox;

/// Finds what the component may import.
pub(super) fn link(engine: &Engine, component: &Component, wasi: Wasi) -> Result<InstancePre<Guard>, PolicyError> {
    let load = PolicyError::Load;
    let imports: Vec<String> = component.component_type().imports(engine).map(|(name, _)| name.to_owned()).collect();
    let unknown = sandbox::unknown(&imports);
    if wasi == Wasi::Deny && !imports.is_empty() {
        let names: Vec<&str> = imports.iter().map(String::as_str).collect();
        let accepted = if unknown.is_empty() {
            "; or, if it cannot do without, accept them with wasi = \"sandbox\" in its NAME.toml, where nothing is in them"
        } else {
            ""
        };
        return Err(load(format!(
            "imports {}, and a policy imports nothing; build it without: Rust for wasm32-unknown-unknown with \
             `tollgate policy build`, JavaScript and Python as policies/examples shows{accepted}",
            listed(&names)
        )));
    }
    if !unknown.is_empty() {
        return Err(load(format!(
            "imports {}, and the sandbox has WASI 0.2 only: cli, clocks, filesystem, io, random and sockets",
            listed(&unknown)
        )));
    }
    let mut linker = Linker::new(engine);
    if wasi == Wasi::Sandbox {
        sandbox::link(&mut linker).map_err(|error| load(format!("no sandbox: {error:#}")))?;
    }
    let pre = linker.instantiate_pre(component);
    pre.map_err(|error| load(format!("imports what the sandbox has not: {error:#}")))
}

/// The first few of many names.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}
