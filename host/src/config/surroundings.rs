//! What the process was started in, besides its configuration.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the process was started in, besides its configuration.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The home of whoever runs it.
    pub home: Option<PathBuf>,
    /// `PATH`: where programs are looked for.
    pub search_path: OsString,
    /// This program, to be started again as a child.
    pub program: Option<PathBuf>,
    /// Where this user's programs keep what they can make again.
    pub cache: Option<PathBuf>,
    /// The working directory.
    pub here: Option<PathBuf>,
}

impl Surroundings {
    /// This process's.
    pub fn of_this_process() -> Self {
        // The link stays ours when the file is replaced by another version.
        let link = PathBuf::from("/proc/self/exe");
        let home = std::env::home_dir();
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
        Self {
            cache: cache.or_else(|| home.as_ref().map(|home| home.join(".cache"))).filter(|dir| dir.is_absolute()),
            here: std::env::current_dir().ok(),
            home,
            search_path: std::env::var_os("PATH").unwrap_or_default(),
            program: if link.exists() { Some(link) } else { std::env::current_exe().ok() },
        }
    }
}
