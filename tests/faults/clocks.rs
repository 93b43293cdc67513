//! Clocks that jump: a library that is loaded before the host, and tells it another time of day than the machine's.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::Scratch;

/// Where `apt install libfaketime` puts it, and `pip install -r tests/clients/requirements.txt`.
pub fn library() -> Option<PathBuf> {
    let of_the_system = ["x86_64-linux-gnu", "aarch64-linux-gnu", ""]
        .map(|machine| ["/usr/lib", machine, "faketime/libfaketime.so.1"].iter().collect::<PathBuf>());
    let look = "import importlib.util as look; print(look.find_spec('libfaketime').submodule_search_locations[0])";
    let of_python = Command::new("python3").args(["-c", look]).output().ok().filter(|found| found.status.success());
    let of_python = of_python.and_then(|found| String::from_utf8(found.stdout).ok());
    let of_python =
        of_python.map(|folder| PathBuf::from(folder.trim()).join("vendor/libfaketime/src/libfaketime.so.1"));
    of_python.into_iter().chain(of_the_system).find(|library| library.exists())
}

/// What one host takes for the time of day. What it waits for is as long as ever.
pub struct Clock {
    library: Option<PathBuf>,
    folder: Scratch,
}

impl Clock {
    /// With the machine's time, and for ever so where there is no library.
    pub fn new(library: Option<PathBuf>) -> Self {
        let clock = Self { library, folder: Scratch::new() };
        clock.is_ahead_by(0);
        clock
    }

    /// So many seconds, from the next look at it on.
    pub fn is_ahead_by(&self, seconds: i64) {
        // Put into its place whole: the host looks at any moment.
        self.folder.write("next", format!("{seconds:+}\n"));
        fs::rename(self.folder.join("next"), self.folder.join("now")).expect("a file in its place");
    }

    /// For the host's process.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let Some(library) = &self.library else { return Vec::new() };
        let set = |name| (name, "1".to_owned());
        vec![
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.folder.join("now").display().to_string()),
            set("FAKETIME_NO_CACHE"),
            set("FAKETIME_DONT_FAKE_MONOTONIC"),
            // What the policy folder is read by.
            set("NO_FAKE_STAT"),
        ]
    }
}
