//! What the authors' commands have compiled, and keep for the next of them: machine code, and so only where nobody else
//! could have put it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::harness::{Scratch, guests, tollgate, tollgate_in};

/// `every-second-user` refuses this one; `standard` does not.
const EVEN: &str = r#"
[[case]]
name = "is refused"
now = "2026-01-04T12:00:00Z"
request = { tenantId = "acme-corp", userId = "u-2", resourceType = "llm", estimatedCostUsd = "1.00" }
expect = { decision = "deny", code = "even_user" }
"#;

/// `odd`, which passes [`EVEN`], and `standard`, which does not.
fn policies() -> Scratch {
    let folder = guests::own_folder();
    guests::install(&folder, "every-second-user", "odd", guests::PATIENT);
    for name in ["odd", "standard"] {
        folder.write(&format!("{name}.fixtures.toml"), EVEN);
    }
    folder
}

/// Whether a policy of the folder passes, with the user's cache there.
fn passes(policies: &Scratch, name: &str, cache: &Path) -> bool {
    let component = policies.join(name);
    let arguments = ["policy", "test", component.to_str().expect("a text")];
    let output = tollgate(&arguments, &[("XDG_CACHE_HOME", cache.to_str().expect("a text"))]);
    let code = output.status.code().expect("an exit status");
    assert!(code < 2, "{}", String::from_utf8_lossy(&output.stderr));
    code == 0
}

fn kept(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache.join("tollgate/compiled")).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// A cache with the code of both, where that of `standard` is now the other's; and the file that was altered.
fn altered(policies: &Scratch) -> (Scratch, PathBuf) {
    let cache = Scratch::new();
    assert!(passes(policies, "odd.wasm", cache.path()));
    let first = kept(cache.path());
    assert_eq!(first.len(), 1, "{first:?}");
    assert!(!passes(policies, "standard.wasm", cache.path()));
    let second = kept(cache.path()).into_iter().find(|file| !first.contains(file)).expect("a second file");
    fs::copy(&first[0], &second).expect("a file");
    (cache, second)
}

#[test]
fn what_was_compiled_once_is_there_for_the_next_command_if_it_is_whole() {
    let policies = policies();
    let (cache, file) = altered(&policies);
    assert!(passes(&policies, "standard.wasm", cache.path()), "it was compiled again");
    let mode = fs::metadata(cache.join("tollgate/compiled")).expect("a folder").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let mut code = fs::read(&file).expect("code");
    code.push(0);
    fs::write(&file, code).expect("a file");
    assert!(!passes(&policies, "standard.wasm", cache.path()), "it has another checksum");
}

#[test]
fn every_command_that_runs_a_policy_keeps_its_code() {
    let policies = policies();
    let component = policies.join("odd.wasm");
    let component = component.to_str().expect("a text");
    // Beside the code that serves, the measurement has code that counts.
    for (arguments, files) in [
        (["policy", "inspect", component].as_slice(), 1),
        (&["policy", "test", "--explore", "--questions", "1", component], 1),
        (&["policy", "bench", "--time", "1", component], 2),
    ] {
        let cache = Scratch::new();
        let output = tollgate(arguments, &[("XDG_CACHE_HOME", cache.path().to_str().expect("a text"))]);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(kept(cache.path()).len(), files, "{arguments:?}");
    }
}

#[test]
fn code_that_somebody_else_could_have_written_is_not_run() {
    let policies = policies();
    let (cache, _) = altered(&policies);
    let folder = cache.join("tollgate/compiled");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("other permissions");
    assert!(!passes(&policies, "standard.wasm", cache.path()));
    // A link to a folder that is in order is as good as that.
    let linked = Scratch::new();
    fs::create_dir(linked.join("tollgate")).expect("a folder");
    std::os::unix::fs::symlink(&folder, linked.join("tollgate/compiled")).expect("a link");
    assert!(!passes(&policies, "standard.wasm", linked.path()));
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("other permissions");
    assert!(passes(&policies, "standard.wasm", linked.path()));
}

#[test]
fn nothing_is_read_or_kept_below_the_working_directory() {
    let (policies, here, home) = (policies(), Scratch::new(), Scratch::new());
    let component = policies.join("odd.wasm");
    let component = component.to_str().expect("a text");
    let below = here.join("cache");
    let test = |cache: &str| {
        let home = home.path().to_str().expect("a text");
        let output = tollgate_in(&here, &["policy", "test", component], &[("XDG_CACHE_HOME", cache), ("HOME", home)]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    };
    test(below.to_str().expect("a text"));
    assert!(!below.exists() && kept(&home.join(".cache")).is_empty());
    // One that says from where it counts no path of its own is none.
    test("cache");
    assert!(!below.exists());
    assert_eq!(kept(&home.join(".cache")).len(), 1);
    // A way around.
    let around = Scratch::new();
    std::os::unix::fs::symlink(here.path(), around.join("tollgate")).expect("a link");
    test(around.path().to_str().expect("a text"));
    assert_eq!(fs::read_dir(here.join("compiled")).expect("an empty folder").count(), 0);
}
