//! Whom the server runs as.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User, geteuid};

use super::error::EmbeddedError;
use super::process;

/// Whom the server runs as.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    gid: u32,
    /// Whether that is somebody else: we are root, which PostgreSQL refuses to run as.
    pub(super) switch: bool,
}

impl Account {
    /// Root runs the server as the owner of the cluster, else as `postgres`, else as `nobody`; everybody
    /// else as themselves.
    pub(super) fn choose(owner: Option<&Metadata>) -> Result<Self, EmbeddedError> {
        let me = geteuid();
        if !me.is_root() {
            let user = lookup(User::from_uid(me))?.ok_or(EmbeddedError::Nameless(me.as_raw()))?;
            return Ok(Self::of(user, false));
        }
        if let Some(owner) = owner.filter(|owner| owner.uid() != 0) {
            // The directory's group may be root's.
            let gid = lookup(User::from_uid(Uid::from_raw(owner.uid())))?.map_or(owner.uid(), |user| user.gid.as_raw());
            return Ok(Self { name: user_name(owner.uid()), uid: owner.uid(), gid, switch: true });
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = lookup(User::from_name(name))?.filter(|user| !user.uid.is_root()) {
                return Ok(Self::of(user, true));
            }
        }
        Err(EmbeddedError::NoAccount)
    }

    fn of(user: User, switch: bool) -> Self {
        Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), switch }
    }

    /// A command that runs as this user in `directory`, with an empty environment and in a session of
    /// its own, and that ends with the thread that spawns it.
    pub(super) fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(directory).stdin(Stdio::null());
        if self.switch {
            // The child changes its user before its directory, so it can only begin where this user may be.
            command.uid(self.uid).gid(self.gid);
        }
        process::end_with_this_thread(&mut command);
        command
    }

    /// Whether this user can enter `directory`, by trying: modes alone do not tell (ACLs, namespaces).
    pub(super) fn can_enter(&self, directory: &Path) -> Result<bool, EmbeddedError> {
        match self.command(Path::new("/bin/sh"), directory).args(["-c", ":"]).status() {
            Ok(_) => Ok(true),
            Err(error) if self.switch && error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
            Err(error) => Err(EmbeddedError::io("enter", directory)(error)),
        }
    }
}

/// The name of a user, or the number without one.
pub(super) fn user_name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name)
}

fn lookup(found: nix::Result<Option<User>>) -> Result<Option<User>, EmbeddedError> {
    found.map_err(|errno| EmbeddedError::io("look up users in", Path::new("/etc/passwd"))(errno.into()))
}
