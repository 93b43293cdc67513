//! Where what a command prints goes to nobody, or to a full disk.

use std::fs::File;
use std::io::PipeWriter;

use crate::harness::{Database, guests, tollgate_into};

/// What `head -1` leaves behind when it has seen enough.
fn unread() -> PipeWriter {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_nobody_reads_goes_on_to_its_end_and_says_nothing_of_it() {
    let database = Database::migrated().await;
    let url = database.url();
    let environment = [("DATABASE_URL", url.as_str())];
    let standard = guests::SHIPPED.join("standard.wasm");
    let standard = standard.to_str().expect("a text");
    for arguments in [
        &["migrate"][..],
        &["quota", "set", "tenant", "acme-corp", "llm", "day", "1.50"],
        &["quota", "list"],
        &["quota", "list", "--json"],
        // It prints its plan first, and must carry it out all the same.
        &["tenant", "onboard", "globex", "--tier", "pro"],
        &["tenant", "list"],
        &["decision", "list"],
        &["alert", "list"],
        &["policy", "inspect", standard],
        &["policy", "test", standard],
        &["completions", "bash"],
        &["--help"],
    ] {
        let output = tollgate_into(unread(), arguments, &environment);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(0), ""), "{arguments:?}");
    }
    let quotas = database.rows("SELECT limit_usd::text FROM copilot_internal.cost_quotas WHERE scope_id = 'acme-corp'");
    assert_eq!(quotas.await[0]["limit_usd"], "1.500000000");
    let tenants = database.rows("SELECT tier FROM copilot_internal.tenants WHERE tenant_id = 'globex'");
    assert_eq!(tenants.await[0]["tier"], "pro");
    // Its status is its own: this quota is not there.
    let missing = ["quota", "delete", "tenant", "nobody", "llm", "day"];
    assert_eq!(tollgate_into(unread(), &missing, &environment).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_an_error_that_says_so() {
    let database = Database::migrated().await;
    let full = File::options().write(true).open("/dev/full").expect("a device that is always full");
    let output = tollgate_into(full, &["quota", "list"], &[("DATABASE_URL", &database.url())]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("error: cannot write to stdout: No space left on device"), "{said}");
}
