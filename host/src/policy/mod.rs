//! Policies: compile, limit and call components; the folder they live in; fixtures; building guests.

mod bindings;
pub mod build;
pub mod compile;
pub mod engine;
pub mod explore;
mod failure;
pub mod fixture;
pub mod folder;
mod imports;
mod limits;
pub mod manifest;
pub mod measure;
pub mod paste;
mod sandbox;

pub use engine::{Compiled, Engine};
pub use failure::PolicyError;
pub use folder::{Folder, Generation, Policy, Session, Watch, Workshop};
