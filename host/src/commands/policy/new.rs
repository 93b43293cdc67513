//! `policy new`: a folder that builds and passes its fixtures.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use crate::cli::PolicyLanguage;
use crate::commands::Failure;
use crate::policy::scaffold::{self, Language};
use crate::quota::Tier;

pub(super) fn new(name: &str, language: PolicyLanguage) -> Result<(), Failure> {
    Tier::parse(name).map_err(|fault| Failure::new(format!("NAME: {fault}")).hint("a policy is called as its tier"))?;
    let language = match language {
        PolicyLanguage::Rust => Language::Rust,
        PolicyLanguage::Javascript => Language::JavaScript,
        PolicyLanguage::Python => Language::Python,
    };
    let folder = Path::new(name);
    if folder.exists() {
        return Err(Failure::new(format!("{name} is there already")).hint("choose another name, or remove it first"));
    }
    for (path, text) in scaffold::files(name, language) {
        write(&folder.join(path), &text)?;
    }
    println!("{name} is there. Next:");
    if let Some(line) = scaffold::install_line(name, language) {
        println!("  {line}");
    }
    println!("  tollgate policy build {name} --out built");
    println!("  tollgate policy test built/{name}.wasm");
    Ok(())
}

/// Never over a file that is there.
fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let parent = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)
        .and_then(|()| OpenOptions::new().write(true).create_new(true).open(file))
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))
}
