//! Promotion: a candidate becomes the live policy, by its digest; and the way back.
//!
//! Both are changes of the folder, so that whoever watches it follows: other hosts, and the next start. What was live is
//! `NAME.previous.wasm` then, with its texts, and a rollback exchanges the two.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::files::Files;
use super::{Folder, Generation};
use crate::policy::build::replace_file;
use crate::policy::engine::{self, PolicyError};

/// What goes together; the component last, since it is what makes the others count.
const PARTS: [&str; 3] = ["toml", "fixtures.toml", "wasm"];

/// Why the folder is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// As things stand it cannot be done; the sentence says what would have to be.
    #[error("{0}")]
    Conflict(String),
    /// The folder was not read or written.
    #[error("{0}")]
    Failed(String),
}

impl From<PolicyError> for ChangeError {
    fn from(error: PolicyError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Folder {
    /// `NAME.next.wasm` becomes `NAME.wasm`, with the texts of its own that it has. Blocks.
    ///
    /// # Errors
    /// There is no candidate that passed its gate, it has another digest than `digest`, or the folder is not ours to write.
    pub fn promote(
        &self,
        name: &str,
        digest: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Arc<Generation>, ChangeError> {
        let mut memory = self.memory();
        self.scan(&mut memory, now, true)?;
        let generation = self.generation();
        let Some(candidate) = generation.candidates.get(name) else {
            return Err(ChangeError::Conflict(match generation.refused_candidates.get(name) {
                Some(error) => format!("{name}.next.wasm was refused: {error}"),
                None => format!("{name} has no candidate; put one into the folder as {name}.next.wasm"),
            }));
        };
        let promoted = candidate.policy.reference.digest.clone();
        if let Some(wanted) = digest.filter(|wanted| **wanted != *promoted) {
            return Err(ChangeError::Conflict(format!("the candidate for {name} is {promoted}, not {wanted}")));
        }
        let is_the_same = |files: Files| files.digest() == candidate.policy.source;
        if !Files::read_candidate(&self.place.dir, name).is_ok_and(is_the_same) {
            return Err(ChangeError::Conflict(format!("{name}.next.wasm has just changed; look at it and try again")));
        }
        promote(&self.place.dir, name).map_err(|error| {
            unwritten(
                &error,
                &format!("deliver {name}.next.wasm ({promoted}) as {name}.wasm from where the folder comes from"),
            )
        })?;
        self.scan(&mut memory, now, true)?;
        self.expect(name, &promoted)
    }

    /// `NAME.previous.wasm` and `NAME.wasm` change places, with their texts. Blocks.
    ///
    /// # Errors
    /// There is nothing to go back to, it does not hold any more, or the folder is not ours to write.
    pub fn rollback(
        &self,
        name: &str,
        digest: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Arc<Generation>, ChangeError> {
        let mut memory = self.memory();
        let previous = match fs::read(self.place.dir.join(format!("{name}.previous.wasm"))) {
            Ok(component) => engine::digest(&component),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let fault = format!("{name} has nothing to go back to: there is no {name}.previous.wasm");
                return Err(ChangeError::Conflict(fault));
            }
            Err(error) => return Err(ChangeError::Failed(format!("{name}.previous.wasm: {error}"))),
        };
        if let Some(wanted) = digest.filter(|wanted| **wanted != *previous) {
            return Err(ChangeError::Conflict(format!("the previous version of {name} is {previous}, not {wanted}")));
        }
        exchange(&self.place.dir, name).map_err(|error| {
            unwritten(&error, &format!("deliver the earlier {name}.wasm ({previous}) from where the folder comes from"))
        })?;
        self.scan(&mut memory, now, true)?;
        self.expect(name, &previous)
    }

    /// The files are in place; that they also serve is for the gate to say.
    fn expect(&self, name: &str, digest: &str) -> Result<Arc<Generation>, ChangeError> {
        let generation = self.generation();
        if generation.policies.get(name).is_some_and(|policy| &*policy.reference.digest == digest) {
            return Ok(generation);
        }
        let why = generation.refused.get(name).map_or_else(|| "another file is there".to_owned(), ToString::to_string);
        Err(ChangeError::Conflict(format!("{name}.wasm is {digest} now, and does not serve: {why}")))
    }
}

fn promote(dir: &Path, name: &str) -> io::Result<()> {
    for part in PARTS {
        put(dir, &format!("{name}.previous.{part}"), content(dir, &format!("{name}.{part}"))?.as_deref())?;
    }
    for part in PARTS {
        let next = dir.join(format!("{name}.next.{part}"));
        if next.exists() {
            fs::rename(next, dir.join(format!("{name}.{part}")))?;
        }
    }
    Ok(())
}

fn exchange(dir: &Path, name: &str) -> io::Result<()> {
    for part in PARTS {
        let (file, other) = (format!("{name}.{part}"), format!("{name}.previous.{part}"));
        let (live, previous) = (content(dir, &file)?, content(dir, &other)?);
        put(dir, &file, previous.as_deref())?;
        put(dir, &other, live.as_deref())?;
    }
    Ok(())
}

fn content(dir: &Path, file: &str) -> io::Result<Option<Vec<u8>>> {
    match fs::read(dir.join(file)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Writes the file, or has none there.
fn put(dir: &Path, file: &str, content: Option<&[u8]>) -> io::Result<()> {
    let path = dir.join(file);
    match content {
        Some(content) => replace_file(&path, content),
        None => match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

fn unwritten(error: &io::Error, instead: &str) -> ChangeError {
    if matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied) {
        return ChangeError::Conflict(format!("the policy folder cannot be written to ({error}): {instead}"));
    }
    ChangeError::Failed(format!("the policy folder was not changed as it should be: {error}"))
}
