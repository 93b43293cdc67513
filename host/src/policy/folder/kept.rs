//! The last good version of each policy, in the data directory: a restart beside a broken file serves what served
//! before. A policy's three files are one here, so that no crash leaves them from two versions.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::build::replace_file;
use super::super::engine;
use super::files::Files;

const EXTENSION: &str = "good";
const FIRST_WORD: &str = "tollgate-policy-1";

/// Where the last good versions of one folder's policies are; nowhere, if nothing is to be kept.
pub(super) struct Kept {
    dir: Option<PathBuf>,
}

impl Kept {
    /// Those of `folder`, below `base`: another folder's policies are nobody's last good version here.
    pub(super) fn new(base: Option<&Path>, folder: &Path) -> Self {
        let of_folder = |base: &Path| {
            let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
            let digest = engine::digest(folder.as_os_str().as_encoded_bytes());
            base.join(digest.trim_start_matches("sha256:").get(..16).unwrap_or_default())
        };
        Self { dir: base.map(of_folder) }
    }

    /// Whether some host has kept any.
    pub(super) fn is_there(&self) -> bool {
        self.dir.as_ref().is_some_and(|dir| dir.exists())
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.dir.as_ref().map(|dir| dir.join(format!("{name}.{EXTENSION}")))
    }

    /// The names that have one.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = self.dir.as_ref().and_then(|dir| fs::read_dir(dir).ok());
        let files = entries.into_iter().flatten().flatten().map(|entry| entry.path());
        files
            .filter(|file| file.extension().is_some_and(|extension| extension == EXTENSION))
            .filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned()))
            .collect()
    }

    /// Replaces the last good version. That it could not be written is told to the log alone: the policy serves.
    pub(super) fn keep(&self, name: &str, files: &Files) {
        let Some(file) = self.file(name) else { return };
        let (manifest, fixtures) = (files.manifest.as_bytes(), files.fixtures.as_bytes());
        let first_line = format!(
            "{FIRST_WORD} {} {} {} {}\n",
            files.component.len(),
            manifest.len(),
            fixtures.len(),
            files.digest()
        );
        let bytes = [first_line.as_bytes(), &files.component, manifest, fixtures].concat();
        let write = || -> io::Result<()> {
            if let Some(dir) = &self.dir {
                fs::create_dir_all(dir)?;
            }
            replace_file(&file, &bytes)
        };
        if let Err(error) = write() {
            tracing::warn!(policy = name, reason = %error, "Last good version not kept");
        }
    }

    /// The last good version, if it is there and whole.
    pub(super) fn load(&self, name: &str) -> Option<Files> {
        let bytes = fs::read(self.file(name)?).ok()?;
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (first_line, rest) = (str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]);
        let [word, component, manifest, fixtures, digest] = first_line.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        let (component, rest) = rest.split_at_checked(component.parse().ok()?)?;
        let (manifest, rest) = rest.split_at_checked(manifest.parse().ok()?)?;
        let fixtures = rest.get(..fixtures.parse().ok()?)?;
        let files = Files {
            component: component.to_vec(),
            manifest: String::from_utf8(manifest.to_vec()).ok()?,
            fixtures: String::from_utf8(fixtures.to_vec()).ok()?,
        };
        (word == FIRST_WORD && files.digest() == digest).then_some(files)
    }

    /// The policy was taken from the folder.
    pub(super) fn forget(&self, name: &str) {
        if let Some(file) = self.file(name) {
            let _ = fs::remove_file(file);
        }
    }
}
