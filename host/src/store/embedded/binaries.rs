//! Finds the machine's `postgres` and `initdb`.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::account::Account;
use super::error::EmbeddedError;

/// The oldest major version that Tollgate works with.
pub(super) const OLDEST_MAJOR: u32 = 14;

/// Where distributions keep the programs, which are rarely on PATH: in each folder of the first
/// whose name begins with the second, below it the third.
const FOLDERS: [(&str, &str, &str); 8] = [
    ("/usr/lib/postgresql", "", "bin"),         // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),                  // PGDG on RHEL and Fedora
    ("/usr", "bin", ""),                        // Fedora, Arch
    ("/usr/libexec", "postgresql", ""),         // Alpine
    ("/usr/lib", "postgresql", "bin"),          // SUSE
    ("/opt/homebrew/opt", "postgresql", "bin"), // Homebrew on Apple silicon
    ("/usr/local/opt", "postgresql", "bin"),    // Homebrew on Intel
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
];

/// The programs of one installation.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    pub(super) initdb: PathBuf,
    pub(super) postgres: PathBuf,
    pub(super) major: u32,
    version: String,
}

impl Binaries {
    /// The installation for a cluster of version `needed`, or for a new one: the first on the search
    /// path, else the newest.
    ///
    /// # Errors
    /// Without an installation of that version, or of one that is new enough.
    pub(super) fn find(
        search_path: &OsStr,
        account: &Account,
        cluster: &Path,
        needed: Option<u32>,
    ) -> Result<Self, EmbeddedError> {
        let all = installed(search_path, account);
        let versions = || all.iter().map(|one| one.version.clone()).collect();
        let fits = |one: &&Self| one.major >= OLDEST_MAJOR && needed.is_none_or(|major| one.major == major);
        match (all.iter().find(fits), needed) {
            (Some(one), _) => Ok(one.clone()),
            (None, Some(needed)) if !all.is_empty() => {
                Err(EmbeddedError::OtherMajor { cluster: cluster.to_owned(), needed, found: versions() })
            }
            (None, _) => Err(EmbeddedError::NoBinaries { found: versions() }),
        }
    }

    /// The programs in `folder`, if `account` can run them.
    fn in_folder(folder: &Path, account: &Account) -> Option<Self> {
        let (initdb, postgres) = (folder.join("initdb"), folder.join("postgres"));
        if !initdb.is_file() {
            return None;
        }
        let output = account.command(&postgres, Path::new("/")).arg("--version").output().ok()?;
        let (major, version) = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { initdb, postgres, major, version })
    }
}

/// All installations: those on the search path in its order, then the distribution's, newest first.
fn installed(search_path: &OsStr, account: &Account) -> Vec<Binaries> {
    let mut seen = HashSet::new();
    let mut programs = |folders: Vec<PathBuf>| -> Vec<Binaries> {
        folders
            .into_iter()
            // Links are followed first: PATH may hold links to a few of the programs only.
            .filter_map(|folder| Some(fs::canonicalize(folder.join("postgres")).ok()?.parent()?.to_owned()))
            .filter(|folder| seen.insert(folder.clone()))
            .filter_map(|folder| Binaries::in_folder(&folder, account))
            .collect()
    };
    let mut all = programs(search_folders(search_path));
    let mut others = programs(FOLDERS.iter().flat_map(|&folder| distribution_folders(folder)).collect());
    others.sort_by_key(|one| std::cmp::Reverse(one.major));
    all.append(&mut others);
    all
}

/// The folders of a PATH. A relative one would mean another folder to each process, so it is left out.
fn search_folders(search_path: &OsStr) -> Vec<PathBuf> {
    let folders = search_path.as_bytes().split(|&byte| byte == b':');
    folders.map(|folder| PathBuf::from(OsStr::from_bytes(folder))).filter(|folder| folder.is_absolute()).collect()
}

fn distribution_folders((parent, prefix, inner): (&str, &str, &str)) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join(inner))
        .collect()
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `… 18beta1` or `… 19devel`.
fn parse_version(line: &str) -> Option<(u32, String)> {
    let version = line.strip_prefix("postgres (PostgreSQL) ")?.split_whitespace().next()?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    Some((version[..digits].parse().ok()?, version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_every_kind_of_release() {
        let read = |line| parse_version(line).map(|(major, _)| major);
        assert_eq!(read("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(read("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(read("postgres (PostgreSQL) 19devel"), Some(19));
        assert_eq!(read("postgres (PostgreSQL) 9.6.24"), Some(9));
        assert_eq!(read("some shim: command not found"), None);
    }

    #[test]
    fn relative_folders_of_the_search_path_are_ignored() {
        let folders = search_folders(OsStr::new("/usr/bin:bin:.::/opt/x"));
        assert_eq!(folders, [PathBuf::from("/usr/bin"), PathBuf::from("/opt/x")]);
    }
}
