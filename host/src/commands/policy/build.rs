//! `policy build`: sources to components.

use std::path::{Path, PathBuf};

use crate::commands::{Failure, shown};
use crate::config::Surroundings;
use crate::policy::build;

pub(super) fn build(paths: &[PathBuf], out: &Path) -> Result<(), Failure> {
    for policy in build::build(paths, out, Surroundings::of_this_process().home.as_deref())? {
        println!("{}  {} KiB", shown(&policy.file), policy.size.div_ceil(1024));
    }
    Ok(())
}
