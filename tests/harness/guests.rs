//! Policies: those that are shipped and those of the tests, built once for the whole test process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use tollgate::policy::build::build;
use tollgate::policy::{Folder, Workshop};

use super::{NOON, Scratch, instant};

/// Where the repository lies.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn built(sources: &str, out: &str) -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(out);
    if let Err(error) = build(&[repository().join(sources)], &out, None) {
        panic!("{sources}: {error}");
    }
    out
}

/// The deadline is wall time, and the machine of the tests may be busy with others.
pub const PATIENT: &str = "timeout_ms = 1000\n";

/// `standard`, `free`, `pro`, `enterprise`.
pub static SHIPPED: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = built("policies", "shipped");
    for policy in ["standard", "free", "pro", "enterprise"] {
        std::fs::write(folder.join(format!("{policy}.toml")), PATIENT).expect("a file");
    }
    folder
});

/// `every-second-user`, `hostile`.
pub static OF_THE_TESTS: LazyLock<PathBuf> = LazyLock::new(|| built("tests/fixtures/policies", "of-the-tests"));

/// The shipped policies, opened once: no test changes their folder.
pub fn shipped() -> Arc<Folder> {
    static FOLDER: LazyLock<Arc<Folder>> = LazyLock::new(|| open(SHIPPED.clone()));
    FOLDER.clone()
}

/// A folder with the standard policy, for a test that changes it.
pub fn own_folder() -> Scratch {
    let folder = Scratch::new();
    for file in ["standard.wasm", "standard.toml", "standard.fixtures.toml"] {
        std::fs::copy(SHIPPED.join(file), folder.join(file)).expect("a built policy");
    }
    folder
}

/// Puts a policy of the tests into a folder, for the tier `name`, with the operator's file beside it.
pub fn install(folder: &Scratch, policy: &str, name: &str, manifest: &str) {
    folder.write(&format!("{name}.toml"), manifest);
    std::fs::copy(OF_THE_TESTS.join(format!("{policy}.wasm")), folder.join(&format!("{name}.wasm")))
        .expect("a built policy");
}

/// The program of the tests compiles, and what it has compiled is there for all of them.
pub fn workshop() -> Workshop {
    Workshop {
        program: Some(env!("CARGO_BIN_EXE_tollgate").into()),
        compiled: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled")),
        ..Workshop::default()
    }
}

/// Reads a policy folder.
pub fn open(folder: PathBuf) -> Arc<Folder> {
    open_with(folder, workshop())
}

/// Reads a policy folder, for hosts that keep something.
pub fn open_with(folder: PathBuf, workshop: Workshop) -> Arc<Folder> {
    Arc::new(Folder::open(folder, workshop, instant(NOON)).unwrap_or_else(|error| panic!("{error}")))
}
