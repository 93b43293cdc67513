//! What a component is made of, read without running it.

use wasmtime::component::Component;

use super::engine::digest;

/// Bytes in a page of linear memory.
const PAGE: u64 = 64 << 10;

/// A component from the outside.
#[derive(Clone, Debug)]
pub struct Anatomy {
    /// Of its bytes: `sha256:…`.
    pub digest: String,
    /// In bytes.
    pub size: usize,
    /// Interfaces that it exports, with their versions.
    pub exports: Vec<String>,
    /// What it wants from its host.
    pub imports: Vec<String>,
    /// Linear memory that an instance starts with at most, in bytes; `None` where it brings modules that only its host knows.
    pub initial_memory: Option<u64>,
}

impl Anatomy {
    pub(super) fn of(component: &Component, bytes: &[u8]) -> Self {
        let (engine, of) = (component.engine(), component.component_type());
        let initial_memory = component.resources_required().map(|needs| {
            // Told as pages, of the largest memory.
            u64::from(needs.num_memories).saturating_mul(needs.max_initial_memory_size.unwrap_or_default()) * PAGE
        });
        Self {
            digest: digest(bytes),
            size: bytes.len(),
            exports: of.exports(engine).map(|(name, _)| name.to_owned()).collect(),
            imports: of.imports(engine).map(|(name, _)| name.to_owned()).collect(),
            initial_memory,
        }
    }
}
