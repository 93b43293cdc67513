//! A package in JavaScript → a component, by componentize-js of the package's own `node_modules`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::{BuildError, Source, missing};

/// Run by node in the package's folder, where imports are looked for. What a policy does not have is left out, so that the
/// component imports nothing.
const SCRIPT: &str = r#"
import { writeFile } from "node:fs/promises";
const [sourcePath, witPath, out] = process.argv.slice(2);
let componentize;
try {
  ({ componentize } = await import("@bytecodealliance/componentize-js"));
} catch (error) {
  if (error.code !== "ERR_MODULE_NOT_FOUND") throw error;
  console.error(error.message);
  process.exit(3);
}
const disableFeatures = ["stdio", "random", "clocks", "http", "fetch-event"];
const { component } = await componentize({ sourcePath, witPath, worldName: "policy", disableFeatures });
await writeFile(out, component);
"#;
/// As the examples' package.json has them: componentize-js imports preview2-shim without naming it, so it comes along.
const TOOLS: &str = "@bytecodealliance/componentize-js@0.23.0 @bytecodealliance/preview2-shim@0.17.9";
/// What the script ends with where a package is not installed.
const NOT_INSTALLED: i32 = 3;

#[derive(Deserialize)]
struct PackageJson {
    main: Option<String>,
}

pub(super) fn is_one(folder: &Path) -> bool {
    folder.join("package.json").is_file()
}

pub(super) fn componentize(source: &Source) -> Result<(), BuildError> {
    let main = main(source)?;
    let mut node = Command::new("node")
        .args(["--input-type=module", "-"])
        .arg(source.folder.join(&main))
        .arg(&source.wit)
        .arg(&source.component)
        .current_dir(&source.folder)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| {
            missing(
                "node",
                &error,
                "install Node.js 18 or later: apt install nodejs npm, dnf install nodejs, or brew install node",
            )
        })?;
    if let Some(mut stdin) = node.stdin.take() {
        // A node that does not read has something to say, and its status says that it did.
        let _ = stdin.write_all(SCRIPT.as_bytes());
    }
    let status = node.wait().map_err(|error| BuildError::new(format!("cannot run node: {error}")))?;
    if status.success() {
        return Ok(());
    }
    let shown = source.folder.display();
    if status.code() == Some(NOT_INSTALLED) {
        return Err(BuildError::new(format!("{shown}: @bytecodealliance/componentize-js is not installed there"))
            .hint(format!("npm install --prefix {shown} {TOOLS}")));
    }
    Err(BuildError::new(format!("{shown} does not become a component; the messages of node are above"))
        .hint(format!("{main} exports `decider` with describe, validateSettings and decide")))
}

/// The package's entry: its `main`, else `NAME.js`.
fn main(source: &Source) -> Result<String, BuildError> {
    let file = source.folder.join("package.json");
    let fault = |what: String| BuildError::new(format!("{}: {what}", file.display()));
    let text = std::fs::read_to_string(&file).map_err(|error| fault(error.to_string()))?;
    let package: PackageJson = serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?;
    let main = package.main.unwrap_or_else(|| format!("{}.js", source.name));
    if source.folder.join(&main).is_file() {
        return Ok(main);
    }
    Err(fault(format!("there is no {main} beside it")).hint("name the policy's file with \"main\": \"FILE.js\""))
}
