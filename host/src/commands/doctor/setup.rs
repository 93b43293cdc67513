//! The configuration: values and their origin, who may call, what is enforced, what an outage means.

use super::{Findings, Level};
use crate::api::auth::Transport;
use crate::config::{Config, Setting};

const AREA: &str = "configuration";

pub(super) fn look(config: &Config, findings: &mut Findings) {
    for Setting { name, value, origin } in &config.settings {
        findings.add(AREA, Level::Note, format!("{name} = {value}  ({origin})"));
    }
    access(config, findings);
    enforcement(config, findings);
    data_dir(config, findings);
}

fn access(config: &Config, findings: &mut Findings) {
    if let Err(error) = config.check_listen() {
        findings.add("access", Level::Error, error.to_string()).hint("give each app a token of its own, one a line");
    }
    if config.access.app.is_empty() {
        let who = match config.access.transport {
            Transport::Unix => "whoever may open the socket",
            Transport::Loopback | Transport::Network => "every program of this machine",
        };
        findings
            .add("access", Level::Warning, format!("no app token: {who} may spend and change quotas"))
            .hint("set TOLLGATE_APP_TOKEN_FILE and TOLLGATE_ADMIN_TOKEN_FILE");
        return;
    }
    for token in &config.access.app {
        let tenants: Vec<&str> = token.tenants().iter().map(crate::quota::TenantId::as_str).collect();
        let whom = if tenants.is_empty() { "every tenant".to_owned() } else { tenants.join(", ") };
        findings.add("access", Level::Ok, format!("app token {:?} may charge {whom}", token.name()));
    }
    match &config.access.admin {
        Some(_) => _ = findings.add("access", Level::Ok, "admin routes want the admin token"),
        None => findings
            .add("access", Level::Warning, "no admin token: admin routes are off")
            .hint("set TOLLGATE_ADMIN_TOKEN_FILE to change quotas over HTTP; the commands need none"),
    }
}

fn enforcement(config: &Config, findings: &mut Findings) {
    for (what, variable, enforced) in [
        ("llm and every type but e2b", "ENFORCE_COST_QUOTAS", config.enforcement.others),
        ("e2b", "ENFORCE_E2B_QUOTAS", config.enforcement.e2b),
    ] {
        if enforced {
            findings.add("enforcement", Level::Ok, format!("quotas of {what} are enforced"));
        } else {
            let message = format!("quotas of {what} are not enforced: denials are only noted");
            findings.add("enforcement", Level::Error, message).hint(format!("unset {variable}, or set it to true"));
        }
    }
}

fn data_dir(config: &Config, findings: &mut Findings) {
    let dir = &config.data_dir;
    match std::fs::metadata(dir) {
        Ok(data) if data.is_dir() => match nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK) {
            Ok(()) => _ = findings.add("data directory", Level::Ok, format!("{} can be written", dir.display())),
            Err(error) => findings
                .add("data directory", Level::Error, format!("{} cannot be written: {error}", dir.display()))
                .hint("give it to the user that runs the gate, or choose another with --data-dir"),
        },
        Ok(_) => findings
            .add("data directory", Level::Error, format!("{} is no directory", dir.display()))
            .hint("choose another with --data-dir"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            findings.add(
                "data directory",
                Level::Note,
                format!("{} is not there yet; the first start creates it", dir.display()),
            );
        }
        Err(error) => findings
            .add("data directory", Level::Error, format!("{}: {error}", dir.display()))
            .hint("choose another with --data-dir"),
    }
}
