//! Where the cluster lies, where its socket lies, and whom both belong to.

use std::fmt::Write;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use sha2::{Digest, Sha256};

use super::account::{Account, user_name};
use super::error::EmbeddedError;
use super::process;

/// The cluster's name in the data directory.
const CLUSTER: &str = "postgres";
/// Takes the clusters that the server's user could not reach in the data directory.
const SYSTEM_WIDE: &str = "/var/lib/tollgate";
/// The longest path of a socket in bytes, without the final zero (`sun_path` in unix(7)).
const LONGEST_SOCKET: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// What the server calls its socket, for port 5432.
pub(super) const SOCKET: &str = ".s.PGSQL.5432";

/// The directories of one embedded database.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) account: Account,
    /// Holds the cluster: the data directory, or one of the system-wide place.
    parent: PathBuf,
    /// The cluster.
    pub(super) cluster: PathBuf,
    /// Whether the cluster is there.
    pub(super) exists: bool,
    pub(super) log: PathBuf,
    data_dir: PathBuf,
}

impl Place {
    /// Decides where the database of `data_dir` (a canonical path) lies: where it is, else in the data
    /// directory, else, if the server's user cannot enter that, in the system-wide place.
    pub(super) fn choose(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let existing = existing_parent(data_dir)?;
        let place = |account, parent: &Path, exists| Self {
            account,
            parent: parent.to_owned(),
            cluster: parent.join(CLUSTER),
            exists,
            log: data_dir.join("postgres.log"),
            data_dir: data_dir.to_owned(),
        };
        if let Some(parent) = existing {
            let cluster = parent.join(CLUSTER);
            let owner = fs::symlink_metadata(&cluster).map_err(EmbeddedError::io("read", &cluster))?;
            let account = Account::choose(Some(&owner))?;
            if !owner.is_dir() || owner.uid() != account.uid {
                return Err(EmbeddedError::Foreign { path: cluster, owner: user_name(owner.uid()) });
            }
            if !account.can_enter(&parent)? {
                return Err(EmbeddedError::Unreachable { path: parent, user: account.name });
            }
            return Ok(place(account, &parent, true));
        }
        let account = Account::choose(None)?;
        if account.can_enter(data_dir)? {
            return Ok(place(account, data_dir, false));
        }
        let parent = system_wide(data_dir);
        if !Path::new(SYSTEM_WIDE).exists() {
            make_ours(Path::new(SYSTEM_WIDE), 0o755, 0)?;
        }
        make_ours(&parent, 0o755, 0)?;
        if !account.can_enter(&parent)? {
            return Err(EmbeddedError::Unreachable { path: parent, user: account.name });
        }
        Ok(place(account, &parent, false))
    }

    /// The major version that made the cluster, if it is there.
    pub(super) fn major(&self) -> Result<Option<u32>, EmbeddedError> {
        if !self.exists {
            return Ok(None);
        }
        let path = self.cluster.join("PG_VERSION");
        let text = fs::read_to_string(&path).map_err(EmbeddedError::io("read", &path))?;
        let major = text.trim().parse().map_err(io::Error::other);
        major.map(Some).map_err(EmbeddedError::io("read a version from", &path))
    }

    /// An empty directory beside the cluster, to create it in: only a whole one gets the name, so what is
    /// left of those that were interrupted can go. The name is new each time, because the `initdb` of a host
    /// that was killed may still be clearing its own away.
    pub(super) fn prepare_new(&self) -> Result<PathBuf, EmbeddedError> {
        let unfinished = format!("{CLUSTER}.new-");
        let entries = fs::read_dir(&self.parent).map_err(EmbeddedError::io("read", &self.parent))?;
        for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&unfinished)) {
            remove(&entry.path())?;
        }
        let new = self.parent.join(format!("{unfinished}{}", std::process::id()));
        make_ours(&new, 0o700, self.account.uid)?;
        Ok(new)
    }

    /// Gives the finished cluster its name, for good.
    pub(super) fn adopt_new(&self, new: &Path) -> Result<(), EmbeddedError> {
        fs::rename(new, &self.cluster).map_err(EmbeddedError::io("put the new cluster in place as", &self.cluster))?;
        File::open(&self.parent).and_then(|parent| parent.sync_all()).map_err(EmbeddedError::io("sync", &self.parent))
    }

    /// The directory of the socket, which only the server's user (and root) can enter: beside the cluster,
    /// or, where that path is too long for a socket, a short one.
    pub(super) fn socket_dir(&self) -> Result<PathBuf, EmbeddedError> {
        let beside = self.parent.join("run");
        // sqlx takes the path as text.
        let directory = if fits(&beside) && beside.to_str().is_some() {
            beside
        } else {
            let root = if self.account.switch && Path::new("/run").is_dir() { "/run" } else { "/tmp" };
            Path::new(root).join(format!("tollgate-{}", short_hash(&self.data_dir)))
        };
        make_ours(&directory, 0o700, self.account.uid)?;
        Ok(directory)
    }
}

/// The cluster of `data_dir`, if there is one.
pub(super) fn existing_cluster(data_dir: &Path) -> Result<Option<PathBuf>, EmbeddedError> {
    Ok(existing_parent(data_dir)?.map(|parent| parent.join(CLUSTER)))
}

/// What holds the cluster of `data_dir`, if there is one: the data directory or its system-wide place.
fn existing_parent(data_dir: &Path) -> Result<Option<PathBuf>, EmbeddedError> {
    for parent in [data_dir.to_owned(), system_wide(data_dir)] {
        let proof = parent.join(CLUSTER).join("PG_VERSION");
        match fs::symlink_metadata(&proof) {
            Ok(_) => return Ok(Some(parent)),
            // Somebody else's, and private: it is there.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Some(parent)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(EmbeddedError::io("read", &proof)(error)),
        }
    }
    Ok(None)
}

/// Makes `path` a directory of `owner` with `mode`. One that is there already must be the owner's or ours, and no
/// link: in /tmp, others can put something there first.
fn make_ours(path: &Path, mode: u32, owner: u32) -> Result<(), EmbeddedError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(EmbeddedError::io("create", path)(error));
        }
        _ => {}
    }
    // Not through a link: one that somebody else made would lead us to change what it points to.
    let there = fs::symlink_metadata(path).map_err(EmbeddedError::io("read", path))?;
    if !there.is_dir() || ![owner, geteuid().as_raw()].contains(&there.uid()) {
        return Err(EmbeddedError::Foreign { path: path.to_owned(), owner: user_name(there.uid()) });
    }
    if there.mode() & 0o7777 != mode {
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(EmbeddedError::io("set the mode of", path))?;
    }
    if there.uid() != owner {
        lchown(path, Some(owner), None).map_err(EmbeddedError::io("give away", path))?;
    }
    Ok(())
}

/// Removes a directory in which a process that is ending may still write for a moment.
fn remove(path: &Path) -> Result<(), EmbeddedError> {
    let removed = process::within(Duration::from_secs(5), || match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => None,
        Err(error) if error.kind() != io::ErrorKind::NotFound => Some(Err(error)),
        _ => Some(Ok(())),
    });
    removed.unwrap_or_else(|| Err(io::ErrorKind::DirectoryNotEmpty.into())).map_err(EmbeddedError::io("remove", path))
}

fn system_wide(data_dir: &Path) -> PathBuf {
    Path::new(SYSTEM_WIDE).join(short_hash(data_dir))
}

/// 48 bits of the path's hash, in hexadecimal: the same each time, and short.
fn short_hash(path: &Path) -> String {
    Sha256::digest(path.as_os_str().as_bytes()).iter().take(6).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn fits(socket_dir: &Path) -> bool {
    socket_dir.as_os_str().len() + 1 + SOCKET.len() <= LONGEST_SOCKET
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_path_of_107_bytes_fits_and_one_more_does_not() {
        let longest = LONGEST_SOCKET - 1 - SOCKET.len();
        assert!(fits(Path::new(&format!("/{}", "d".repeat(longest - 1)))));
        assert!(!fits(Path::new(&format!("/{}", "d".repeat(longest)))));
    }

    #[test]
    fn the_system_wide_place_is_the_same_each_time_and_differs_between_data_directories() {
        let place = system_wide(Path::new("/root/.tollgate"));
        assert_eq!(place, system_wide(Path::new("/root/.tollgate")));
        assert_ne!(place, system_wide(Path::new("/home/a/.tollgate")));
        assert_eq!(place.as_os_str().len(), SYSTEM_WIDE.len() + 1 + 12);
    }

    #[test]
    fn a_link_where_the_socket_directory_should_be_is_refused() {
        let base = PathBuf::from(format!("/tmp/tollgate-place-{}", std::process::id()));
        fs::create_dir_all(&base).expect("a directory");
        let link = base.join("run");
        std::os::unix::fs::symlink("/etc", &link).expect("a link");
        let refused = make_ours(&link, 0o700, geteuid().as_raw());
        fs::remove_dir_all(&base).expect("clean up");
        assert!(matches!(refused, Err(EmbeddedError::Foreign { .. })));
    }
}
