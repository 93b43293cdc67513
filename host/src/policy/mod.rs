//! Policies: compile, limit and call components; the folder they live in; fixtures; building guests.

pub mod anatomy;
mod bindings;
pub mod build;
pub mod changes;
pub mod compile;
pub mod engine;
pub mod explore;
mod failure;
pub mod fixture;
pub mod folder;
mod imports;
pub mod limits;
pub mod manifest;
pub mod measure;
pub mod paste;
mod sandbox;
pub mod scaffold;
mod stopwatch;

pub use bindings::Description;
pub use engine::{Compiled, Engine};
pub use failure::PolicyError;
pub use folder::{AtRest, Edition, Folder, Generation, Inspection, Policy, Session, Trial, Watch, Workshop};
pub use stopwatch::Stopwatch;
