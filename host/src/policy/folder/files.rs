//! The files of the folder: which there are, and reading one policy's as they were at one moment.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::super::engine::{self, PolicyError};
use crate::quota::Tier;

/// The largest component that `max_size_mib` can ask for; nothing larger is read.
const LARGEST_COMPONENT: u64 = 64 << 20;
const LARGEST_TEXT: u64 = 4 << 20;

/// The names of the folder's policies.
pub(super) struct Listing {
    /// `NAME` of every `NAME.wasm`.
    pub(super) live: BTreeSet<String>,
    /// `NAME` of every `NAME.next.wasm`.
    pub(super) candidates: BTreeSet<String>,
    /// Whole names of what else ends as a policy's files do: their texts, and [strays](super::stray).
    pub(super) others: BTreeSet<String>,
}

/// What lies in `dir`; whatever does not end as a policy's files do is nobody's business.
pub(super) fn list(dir: &Path) -> Result<Listing, PolicyError> {
    let unreadable = |error: std::io::Error| {
        PolicyError::Unready(format!("cannot read the policy folder {}: {error}", dir.display()))
    };
    let mut listing = Listing { live: BTreeSet::new(), candidates: BTreeSet::new(), others: BTreeSet::new() };
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let Ok(file) = entry.map_err(unreadable)?.file_name().into_string() else { continue };
        let name = file.strip_suffix(".wasm").map(|stem| match stem.strip_suffix(".next") {
            Some(name) => (name, &mut listing.candidates),
            None => (stem, &mut listing.live),
        });
        match name {
            Some((name, names)) if Tier::parse(name).is_ok() => {
                names.insert(name.to_owned());
            }
            _ if ends_as_a_policys(&file) => {
                listing.others.insert(file);
            }
            _ => {}
        }
    }
    Ok(listing)
}

/// Hidden files are other programs'.
fn ends_as_a_policys(file: &str) -> bool {
    let extension = Path::new(file).extension().unwrap_or_default();
    !file.starts_with('.') && ["wasm", "toml"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// A policy's files; a text that is not there is empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) component: Vec<u8>,
    pub(super) manifest: String,
    pub(super) fixtures: String,
}

impl Files {
    /// Those of `NAME`, as they all were at one moment.
    pub(super) fn read(dir: &Path, name: &str) -> Result<Self, PolicyError> {
        Self::settled(&Three::of(dir, name, None))
    }

    /// Those of the candidate for `NAME`; the texts that it has none of are those of `NAME`.
    pub(super) fn read_candidate(dir: &Path, name: &str) -> Result<Self, PolicyError> {
        Self::settled(&Three::of(dir, &format!("{name}.next"), Some(name)))
    }

    /// Of all three, so that any change is another one.
    pub(super) fn digest(&self) -> String {
        let parts = [self.component.as_slice(), self.manifest.as_bytes(), self.fixtures.as_bytes()];
        // Digests of the parts, so that moving a byte from one to the next changes the whole.
        engine::digest(parts.map(engine::digest).concat().as_bytes())
    }

    /// Somebody may be writing: what was read counts only if nothing has changed from before to after.
    fn settled(three: &Three) -> Result<Self, PolicyError> {
        let before = three.stamps()?;
        let files = Self {
            component: bytes(&three.component, LARGEST_COMPONENT)?.ok_or_else(|| gone(&three.component))?,
            manifest: text(&three.manifest)?,
            fixtures: text(&three.fixtures)?,
        };
        let after = three.stamps()?;
        let length = before.first().and_then(Option::as_ref).map(|stamp| stamp.length);
        if before == after && length == u64::try_from(files.component.len()).ok() {
            return Ok(files);
        }
        Err(PolicyError::Unready(format!("{}: not settled, somebody is writing it", file_name(&three.component))))
    }
}

/// Where a policy's files are.
struct Three {
    component: PathBuf,
    manifest: PathBuf,
    fixtures: PathBuf,
}

impl Three {
    fn of(dir: &Path, stem: &str, texts_of: Option<&str>) -> Self {
        let text = |extension: &str| {
            let own = dir.join(format!("{stem}.{extension}"));
            match texts_of {
                Some(other) if !own.exists() => dir.join(format!("{other}.{extension}")),
                _ => own,
            }
        };
        Self { component: dir.join(format!("{stem}.wasm")), manifest: text("toml"), fixtures: text("fixtures.toml") }
    }

    fn stamps(&self) -> Result<[Option<Stamp>; 3], PolicyError> {
        Ok([stamp(&self.component)?, stamp(&self.manifest)?, stamp(&self.fixtures)?])
    }
}

/// What changes when a file is written or replaced.
#[derive(PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    file: (u64, u64),
}

fn stamp(path: &Path) -> Result<Option<Stamp>, PolicyError> {
    Ok(metadata(path)?.map(|file| Stamp {
        length: file.len(),
        modified: (file.mtime(), file.mtime_nsec()),
        changed: (file.ctime(), file.ctime_nsec()),
        file: (file.dev(), file.ino()),
    }))
}

fn metadata(path: &Path) -> Result<Option<Metadata>, PolicyError> {
    match fs::metadata(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PolicyError::Unready(format!("{}: {error}", file_name(path)))),
    }
}

/// The file's bytes, if there is one.
fn bytes(path: &Path, most: u64) -> Result<Option<Vec<u8>>, PolicyError> {
    let Some(file) = metadata(path)? else { return Ok(None) };
    // To open a pipe would be to wait for its other end.
    if !file.is_file() {
        return Err(PolicyError::Load(format!("{}: not a regular file", file_name(path))));
    }
    if file.len() > most {
        let fault =
            format!("{}: {} bytes, more than the {} MiB that are read", file_name(path), file.len(), most >> 20);
        return Err(PolicyError::Load(fault));
    }
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(|error| PolicyError::Unready(format!("{}: {error}", file_name(path)))),
    }
}

fn text(path: &Path) -> Result<String, PolicyError> {
    let bytes = bytes(path, LARGEST_TEXT)?.unwrap_or_default();
    String::from_utf8(bytes).map_err(|_| PolicyError::Load(format!("{}: text in UTF-8 is wanted", file_name(path))))
}

fn gone(path: &Path) -> PolicyError {
    PolicyError::Unready(format!("{}: there, and yet it cannot be found", file_name(path)))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
