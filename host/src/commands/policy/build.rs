//! `policy build`: sources to components.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use crate::commands::{Failure, shown};
use crate::config::Surroundings;
use crate::policy::build;

pub(super) fn build(paths: &[PathBuf], out: &Path) -> Result<(), Failure> {
    let home = Surroundings::of_this_process().home;
    for path in paths {
        if std::io::stderr().is_terminal() {
            eprintln!("Building {} …", shown(path));
        }
        for policy in build::build(std::slice::from_ref(path), out, home.as_deref())? {
            println!("{}  {} KiB", shown(&policy.file), policy.size.div_ceil(1024));
        }
    }
    Ok(())
}
