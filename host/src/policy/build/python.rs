//! A module in Python → a component, by componentize-py: that of the folder's `.venv`, else that on `PATH`.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{BuildError, Source, missing};

/// The module that has the class `Decider`.
const MODULE: &str = "policy";
/// As docs/writing-policies.md has it.
const TOOL: &str = "componentize-py==0.25.1";

pub(super) fn is_one(folder: &Path) -> bool {
    folder.join(MODULE).with_extension("py").is_file()
}

pub(super) fn componentize(source: &Source) -> Result<(), BuildError> {
    let folder = source.folder.display();
    let own = source.folder.join(".venv/bin/componentize-py");
    let program = if own.is_file() { own } else { "componentize-py".into() };
    let status = Command::new(program)
        .arg("-d")
        .arg(&source.wit)
        .args(["-w", "policy", "componentize", "--stub-wasi", "-p"])
        .arg(&source.folder)
        .arg("-o")
        .arg(&source.component)
        .arg(MODULE)
        // Nothing beside the sources.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // That all went well is for this program to say.
        .stdout(Stdio::null())
        .status()
        .map_err(|error| {
            let install = format!("python3 -m venv {folder}/.venv && {folder}/.venv/bin/pip install {TOOL}");
            missing("componentize-py", &error, install)
        })?;
    if status.success() {
        return Ok(());
    }
    Err(BuildError::new(format!("{folder} does not become a component; the messages of componentize-py are above"))
        .hint(format!("{MODULE}.py has a class `Decider` with describe, validate_settings and decide")))
}
