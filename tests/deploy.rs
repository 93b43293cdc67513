//! The files of `docs/deploy` start the gate with flags and variables that it knows.

use clap::Parser as _;
use tollgate::cli::{Cli, Command, ServeArgs};

use crate::harness::guests::repository;
use crate::harness::tollgate;

fn file(name: &str) -> String {
    std::fs::read_to_string(repository().join("docs/deploy").join(name)).expect("the file")
}

#[track_caller]
fn serve(arguments: &[&str]) -> ServeArgs {
    let parsed = Cli::try_parse_from([&["tollgate"], arguments].concat());
    match parsed.unwrap_or_else(|error| panic!("{error}")).command {
        Some(Command::Serve(args)) => args,
        other => panic!("{other:?}"),
    }
}

/// What stands between quotes and commas: `"serve", "--listen"` and `serve, --listen`.
fn words(list: &str) -> Vec<&str> {
    list.split([',', ' ', '"', '[', ']']).filter(|word| !word.is_empty()).collect()
}

#[test]
fn the_unit_serves_on_the_socket_of_its_runtime_directory() {
    let unit = file("tollgate.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/tollgate ")).expect("ExecStart");
    let args = serve(&start.split_whitespace().collect::<Vec<_>>());
    assert_eq!(args.listen.as_deref(), Some("unix:/run/tollgate/tollgate.sock"));
    assert!(unit.contains("\nRuntimeDirectory=tollgate\n") && unit.contains("\nUMask=0007\n"), "{unit}");
}

#[test]
fn the_container_and_the_sidecar_start_the_gate() {
    let container = file("Containerfile");
    let start = container.lines().find_map(|line| line.strip_prefix("CMD ")).expect("CMD");
    assert_eq!(serve(&words(start)).listen.as_deref(), Some("0.0.0.0:8080"));
    // Its variables are known, and its address wants tokens.
    let refused = tollgate(
        &words(start),
        &[("TOLLGATE_DATA_DIR", "/var/lib/tollgate"), ("TOLLGATE_POLICIES", "/etc/tollgate/policies")],
    );
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("without tokens anybody there could spend"), "{said}");
    let sidecar = file("kubernetes-sidecar.yaml");
    let start = sidecar.lines().find_map(|line| line.trim().strip_prefix("args: ")).expect("args");
    assert_eq!(serve(&words(start)).listen.as_deref(), Some("127.0.0.1:8080"));
}
