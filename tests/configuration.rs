//! The configuration, as an operator meets it: what is wrong is named by the name under which it was set, and whoever
//! means to set something never gets a gate without it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Output;

use clap::CommandFactory as _;

use crate::harness::guests::repository;
use crate::harness::{Scratch, tollgate, tollgate_os};

/// `serve` ends there, whatever else is right: it has no policies.
const NO_POLICIES: &str = "cannot read the policy folder";
/// Nothing listens there, and a gate starts without it.
const NOWHERE: (&str, &str) = ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("a text")
}

#[track_caller]
fn assert_fails(output: &Output, fragments: &[&str]) {
    assert_eq!(output.status.code(), Some(2), "{}", stderr(output));
    for fragment in fragments {
        assert!(stderr(output).contains(fragment), "{fragment} is not in {}", stderr(output));
    }
}

#[test]
fn a_configuration_that_does_not_hold_ends_with_2_before_anything_starts() {
    let missing = "/nowhere/token";
    for (arguments, environment, fragments) in [
        (
            vec!["serve", "--listen", "0.0.0.0:0"],
            vec![],
            vec!["error: --listen: 0.0.0.0:0 is no loopback address", "TOLLGATE_APP_TOKEN"],
        ),
        (
            vec!["serve"],
            vec![("TOLLGATE_LISTEN", "[::]:0")],
            vec!["error: TOLLGATE_LISTEN: [::]:0 is no loopback address"],
        ),
        (
            vec!["serve"],
            vec![("TOLLGATE_LISTN", "x")],
            vec!["TOLLGATE_LISTN: unknown variable, did you mean \"TOLLGATE_LISTEN\"?"],
        ),
        (vec!["serve"], vec![("ENFORCE_COST_QUOTAS", "no")], vec!["ENFORCE_COST_QUOTAS", "true or false, got \"no\""]),
        (vec!["serve", "--listen", "everywhere"], vec![], vec!["an address and port (127.0.0.1:8080) or unix:PATH"]),
        (vec!["serve", "--log-level", "loud"], vec![], vec!["error: --log-level: error, warn, info, debug, trace"]),
        (vec!["serve"], vec![("TOLLGATE_APP_TOKEN_FILE", missing)], vec!["TOLLGATE_APP_TOKEN_FILE: /nowhere/token: "]),
        (vec!["serve"], vec![("TOLLGATE_ADMIN_TOKEN", " ")], vec!["TOLLGATE_ADMIN_TOKEN: empty"]),
        (vec!["serve"], vec![("TOLLGATE_APP_TOKEN", "a"), ("TOLLGATE_APP_TOKEN_FILE", "b")], vec!["not both"]),
        (vec!["serve", "--config", "/nowhere.toml"], vec![], vec!["/nowhere.toml"]),
        (
            vec!["serve"],
            vec![("DATABASE_URL", "mysql://tollgate:canary-7f3a9c@127.0.0.1/x")],
            vec!["error: DATABASE_URL: no address of a PostgreSQL database\nhint: it looks like postgres://"],
        ),
    ] {
        assert_fails(&tollgate(&arguments, &environment), &fragments);
    }
}

#[test]
fn a_configuration_file_with_an_unknown_key_names_its_neighbour() {
    let folder = Scratch::new();
    folder.write("tollgate.toml", "listn = \"127.0.0.1:0\"\n");
    let file = folder.join("tollgate.toml");
    let output = tollgate(&["serve", "--config", file.to_str().expect("a text")], &[]);
    assert_fails(&output, &["listn", "did you mean \"listen\"?"]);
    folder.write("tollgate.toml", "app_token = \"hunter2\"\n");
    let output = tollgate(&["serve", "--config", file.to_str().expect("a text")], &[]);
    assert_fails(&output, &["app_token"]);
    assert!(!stderr(&output).contains("hunter2"), "{}", stderr(&output));
}

#[test]
fn a_token_that_is_set_and_cannot_be_read_ends_the_gate_and_never_opens_it() {
    let folder = Scratch::new();
    folder.write("comments", "# chat  hunter2\n\n   # billing\n");
    folder.write("blank", "\n \n");
    folder.write("two", "hunter2-one\nhunter2-two\n");
    let path = |name: &str| folder.join(name).display().to_string();
    let (comments, blank, two) = (path("comments"), path("blank"), path("two"));
    for (variable, value, expected) in [
        ("TOLLGATE_APP_TOKEN_FILE", comments.as_str(), "TOLLGATE_APP_TOKEN_FILE: no token in it, only comments"),
        ("TOLLGATE_APP_TOKEN_FILE", &blank, "TOLLGATE_APP_TOKEN_FILE: empty"),
        ("TOLLGATE_APP_TOKEN", "# later", "TOLLGATE_APP_TOKEN: no token in it, only comments"),
        ("TOLLGATE_APP_TOKEN", "", "TOLLGATE_APP_TOKEN: empty"),
        (
            "TOLLGATE_ADMIN_TOKEN_FILE",
            &two,
            "TOLLGATE_ADMIN_TOKEN_FILE: one token and nothing else, no comment either, got 2",
        ),
        ("TOLLGATE_APP_TOKEN_FILE_FILE", &two, "TOLLGATE_APP_TOKEN_FILE_FILE: unknown variable"),
        ("TOLLGATE_APP_TOKN", "hunter2", "TOLLGATE_APP_TOKN: unknown variable, did you mean \"TOLLGATE_APP_TOKEN\"?"),
    ] {
        let output = tollgate(&["serve"], &[NOWHERE, (variable, value)]);
        assert_fails(&output, &[&format!("error: {expected}")]);
        assert!(!stderr(&output).contains("hunter2"), "{}", stderr(&output));
    }
}

#[test]
fn a_variable_that_is_no_text_is_an_error_that_names_it() {
    for variable in [
        "TOLLGATE_APP_TOKEN",
        "TOLLGATE_ADMIN_TOKEN",
        "TOLLGATE_STORE_FAILURE",
        "ENFORCE_COST_QUOTAS",
        "COST_ALERT_EMAIL_TO",
        "DATABASE_URL",
    ] {
        let output = tollgate_os(&["serve"], &[(variable, OsStr::from_bytes(b"tok\xffen"))]);
        assert_fails(&output, &[&format!("error: {variable}: is not UTF-8")]);
        assert!(!stderr(&output).contains("tok"), "{}", stderr(&output));
    }
    // What is not ours may be anything.
    let output =
        tollgate_os(&["serve"], &[(NOWHERE.0, OsStr::new(NOWHERE.1)), ("LS_COLORS", OsStr::from_bytes(b"\xff"))]);
    assert_fails(&output, &[NO_POLICIES]);
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let folder = Scratch::new();
    folder
        .write("tollgate.toml", "enforce_cost_quotas = false\ndatabase_url = \"postgres://nobody@127.0.0.1:1/none\"\n");
    let config = folder.join("tollgate.toml").display().to_string();
    let empty = [
        "ENFORCE_COST_QUOTAS",
        "ENFORCE_E2B_QUOTAS",
        "COST_ALERT_CHANNELS",
        "COST_ALERT_EMAIL_SMTP_SECURITY",
        "TOLLGATE_LISTEN",
        "DATABASE_URL",
    ]
    .map(|name| (name, ""));
    assert_fails(&tollgate(&["serve", "--config", &config], &empty), &[NO_POLICIES]);
    let report = tollgate(&["doctor", "--json", "--config", &config], &empty);
    let report = String::from_utf8_lossy(&report.stdout);
    for line in ["enforce_cost_quotas = false  (/", "enforce_e2b_quotas = true  (default)", "database_url = (set)  (/"]
    {
        assert!(report.contains(line), "{line} is not in {report}");
    }
}

#[test]
fn a_mistyped_switch_of_enforcement_does_not_pass_silently() {
    for (variable, neighbour) in [
        ("ENFORCE_E2B_QUOTA", "ENFORCE_E2B_QUOTAS"),
        ("ENFORCE_COSTS_QUOTAS", "ENFORCE_COST_QUOTAS"),
        ("TOLLGATE_ENFORCE_E2B_QUOTA", "TOLLGATE_ENFORCE_E2B_QUOTAS"),
    ] {
        let output = tollgate(&["serve"], &[NOWHERE, (variable, "false")]);
        assert_fails(&output, &[&format!("error: {variable}: unknown variable, did you mean \"{neighbour}\"?")]);
    }
    // Somebody else's.
    assert_fails(&tollgate(&["serve"], &[NOWHERE, ("ENFORCE_HTTPS", "false")]), &[NO_POLICIES]);
}

#[test]
fn a_channel_that_is_not_used_needs_nothing_and_one_that_is_needs_an_address() {
    let host = ("COST_ALERT_EMAIL_SMTP_HOST", "mail.example.com");
    let (from, user) = (("COST_ALERT_EMAIL_FROM", "gate@example.com"), ("COST_ALERT_EMAIL_SMTP_USER", "ops"));
    let channel = ("COST_ALERT_CHANNELS", "email");
    for environment in [vec![host], vec![host, from], vec![host, ("COST_ALERT_CHANNELS", "none")]] {
        assert_fails(&tollgate(&["serve"], &[&[NOWHERE][..], &environment].concat()), &[NO_POLICIES]);
    }
    for (environment, expected) in [
        (vec![channel, user], "alert_email_smtp_host: required, since alert_channels names email"),
        (vec![channel, user, host], "alert_email_from: required, since alert_channels names email"),
        (vec![channel, user, host, from], "alert_email_to: required, since alert_channels names email"),
        (vec![("COST_ALERT_EMAIL_TO", ",")], "COST_ALERT_EMAIL_TO: at least one address, got \",\""),
        (vec![("COST_ALERT_EMAIL_TO", "ops")], "COST_ALERT_EMAIL_TO: an address such as ops@example.com, got \"ops\""),
    ] {
        let output = tollgate(&["serve"], &[&[NOWHERE][..], &environment].concat());
        assert_fails(&output, &[&format!("error: {expected}")]);
    }
}

#[test]
fn a_value_of_the_file_is_named_with_its_file_and_says_what_would_be_right() {
    let folder = Scratch::new();
    let file = folder.join("tollgate.toml").display().to_string();
    for (text, expected) in [
        // The line has a password in it.
        ("database_url = \"postgres://tollgate:canary-7f3a9c@x", "line 1: "),
        ("listen = \"everywhere\"", "listen: an address and port"),
        ("enforce_e2b_quotas = \"\"", "enforce_e2b_quotas: true or false, got \"\""),
        ("tiers = 5", "tiers: a table for each tier, such as [tiers.pro], and no integer"),
        ("tier = 5", "unknown key \"tier\", did you mean \"tiers\"?"),
        (
            "store_failure_bound_usd = 1.50",
            "store_failure_bound_usd: an amount is a text, such as \"1.50\", got the number 1.5",
        ),
        ("spool_mib = 1.5", "spool_mib: a text, a whole number or true/false, got a float"),
        ("log_level = \"loud\"", "log_level: error, warn, info, debug, trace"),
        ("database_url = \"mysql://tollgate:canary-7f3a9c@x/y\"", "database_url: no address of a PostgreSQL database"),
    ] {
        folder.write("tollgate.toml", text);
        assert_fails(&tollgate(&["serve", "--config", &file], &[]), &[&format!("error: {file}: {expected}")]);
    }
}

/// The rows of the table with the commands: what they are, and everything else.
fn documented_commands() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(repository().join("docs/configuration.md")).expect("the document");
    let table = text.split("| command | flags | |\n").nth(1).expect("the commands");
    let rows = table.lines().take_while(|line| line.starts_with('|')).skip(1);
    rows.map(|row| row[1..].split_once('|').expect("cells"))
        .map(|(command, rest)| (command.trim().to_owned(), rest.to_owned()))
        .collect()
}

/// The rows about a command, and those that they refer to.
fn documented(rows: &[(String, String)], command: &str) -> String {
    let names = |cell: &str| {
        let named = cell.split('`').skip(1).step_by(2);
        named.map(|name| format!("{name} ")).any(|name| name.starts_with(&format!("{command} ")))
    };
    let about: Vec<_> = rows.iter().filter(|(cell, _)| names(cell)).flat_map(|(cell, rest)| [&**cell, rest]).collect();
    let mut text = about.concat();
    let other = text.split("those of `").nth(1).and_then(|rest| rest.split('`').next()).map(str::to_owned);
    if let Some(other) = other {
        let group = command.rsplit_once(' ').map_or_else(String::new, |(group, _)| format!("{group} "));
        text.push_str(&documented(rows, &format!("{group}{other}")));
    }
    text
}

#[test]
fn every_command_and_flag_is_documented() {
    let rows = documented_commands();
    let mut commands = vec![(String::new(), tollgate::cli::Cli::command())];
    let mut flags = 0;
    while let Some((path, command)) = commands.pop() {
        let name = |sub: &clap::Command| format!("{path} {}", sub.get_name()).trim().to_owned();
        let subs = command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
        commands.extend(subs.map(|sub| (name(sub), sub.clone())));
        if path.is_empty() || command.has_subcommands() {
            continue;
        }
        let text = documented(&rows, &path);
        assert!(!text.is_empty(), "{path} is in no row");
        for flag in command.get_arguments().filter_map(clap::Arg::get_long).filter(|flag| *flag != "help") {
            let words: Vec<&str> = text.split(|c: char| c != '-' && !c.is_ascii_alphanumeric()).collect();
            assert!(words.contains(&format!("--{flag}").as_str()), "{path} --{flag} is not in {text}");
            flags += 1;
        }
    }
    assert!(flags > 80, "{flags}");
}
