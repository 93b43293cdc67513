//! Files that change places: what is live, what was live before it, and what comes next. Either all of a change is made
//! or, as far as the disk lets us, none of it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use super::files::Files;
use super::policy::Policy;
use super::promote::ChangeError;
use super::{Place, STANDARD};
use crate::policy::build::replace_file;

/// What goes together; the component last, since it is what makes the others count.
const PARTS: [&str; 3] = ["toml", "fixtures.toml", "wasm"];

/// The contents of a policy's three files, in the order of [`PARTS`]; none where there is no file.
type Contents = [Option<Vec<u8>>; 3];

/// What serves under a name, which is not always what lies in the folder.
pub(super) enum Live {
    /// The version of these files.
    Serves(Files),
    /// Nothing, and there is no file.
    Nothing,
    /// Nothing, since the file that lies there does not hold.
    Broken,
    /// Something whose files nobody has any more.
    Lost,
}

impl Live {
    /// In a host, where `serving` serves.
    pub(super) fn of_host(place: &Place, name: &str, serving: Option<&Arc<Policy>>) -> Self {
        let Some(policy) = serving else {
            return if is_there(&place.dir, name) { Self::Broken } else { Self::Nothing };
        };
        let is_it = |files: &Files| files.digest() == *policy.edition.files;
        let in_folder = Files::read(&place.dir, name).ok().filter(is_it);
        in_folder.or_else(|| place.kept.load(name).filter(is_it)).map_or(Self::Lost, Self::Serves)
    }

    /// In the hosts that watch the folder, as far as it can be told without one: what lies there if it passes `holds`,
    /// else the last good version.
    pub(super) fn of_folder(place: &Place, name: &str, holds: impl Fn(&Files) -> bool) -> Self {
        let is_there = is_there(&place.dir, name);
        if !is_there && name != STANDARD {
            return Self::Nothing;
        }
        let in_folder = Files::read(&place.dir, name).ok().filter(&holds);
        match in_folder.or_else(|| place.kept.load(name).filter(&holds)) {
            Some(files) => Self::Serves(files),
            // These are the last good versions of this folder's hosts, and this policy has none.
            None if place.kept.is_there() => Self::Broken,
            None => Self::Lost,
        }
    }
}

fn is_there(dir: &Path, name: &str) -> bool {
    dir.join(format!("{name}.wasm")).exists()
}

/// The candidate becomes what is live, and what was live the previous version. A file that served nobody is not kept:
/// the version before it is worth more.
pub(super) fn promote(dir: &Path, name: &str, live: Live) -> io::Result<()> {
    let [previous, next] = ["previous", "next"].map(|place| format!("{name}.{place}"));
    whole(dir, &[name, &previous, &next], || {
        match live {
            Live::Serves(files) => put(dir, &previous, contents_of(files))?,
            Live::Nothing => put(dir, &previous, [None, None, None])?,
            Live::Broken | Live::Lost => {}
        }
        for part in PARTS {
            let next = dir.join(format!("{next}.{part}"));
            if next.exists() {
                fs::rename(next, dir.join(format!("{name}.{part}")))?;
            }
        }
        Ok(())
    })
}

/// `back`, the previous version, becomes what is live, and what was live the previous version.
pub(super) fn exchange(dir: &Path, name: &str, back: Files, live: Live) -> io::Result<()> {
    let previous = format!("{name}.previous");
    let live = match live {
        Live::Serves(files) => contents_of(files),
        Live::Nothing | Live::Broken | Live::Lost => contents(dir, name)?,
    };
    whole(dir, &[name, &previous], || {
        put(dir, name, contents_of(back))?;
        put(dir, &previous, live)
    })
}

/// Makes the change, or puts back what lay under `stems`.
fn whole(dir: &Path, stems: &[&str], change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let before = stems.iter().map(|stem| contents(dir, stem)).collect::<io::Result<Vec<_>>>()?;
    change().inspect_err(|_| {
        for (stem, before) in stems.iter().zip(before) {
            // The first error is what is told.
            let _ = put(dir, stem, before);
        }
    })
}

fn contents_of(files: Files) -> Contents {
    let text = |text: String| (!text.is_empty()).then(|| text.into_bytes());
    [text(files.manifest), text(files.fixtures), Some(files.component)]
}

fn contents(dir: &Path, stem: &str) -> io::Result<Contents> {
    let mut contents = Contents::default();
    for (part, content) in PARTS.into_iter().zip(&mut contents) {
        *content = match fs::read(dir.join(format!("{stem}.{part}"))) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            other => Some(other?),
        };
    }
    Ok(contents)
}

/// Writes the files, and removes those that there should not be.
fn put(dir: &Path, stem: &str, contents: Contents) -> io::Result<()> {
    for (part, content) in PARTS.into_iter().zip(contents) {
        let file = dir.join(format!("{stem}.{part}"));
        match content {
            Some(content) => replace_file(&file, &content)?,
            None => match fs::remove_file(file) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
    }
    Ok(())
}

/// `what` is what has to be delivered where the folder comes from, if it is not ours to write.
pub(super) fn unwritten(error: &io::Error, what: &str) -> ChangeError {
    if matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied) {
        return ChangeError::Conflict(format!(
            "the policy folder cannot be written to ({error}): deliver {what} from where the folder comes from"
        ));
    }
    ChangeError::Failed(format!("the policy folder was not changed as it should be: {error}"))
}
