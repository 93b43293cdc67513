//! What a start tells people, and the log.

use std::io::{self, ErrorKind};

use crate::config::Listen;
use crate::gate::Enforcement;
use crate::store::Store;

/// Logs what is enforced, as soon as the store has been reached: at the start, or when it comes up later.
pub(super) async fn initialized(store: Store, enforcement: Enforcement, kind: &'static str) {
    store.health().is_up().await;
    if enforcement.others {
        tracing::info!(store = kind, "Cost tracking initialized successfully");
    }
    if enforcement.e2b {
        tracing::info!(store = kind, "E2B cost tracking initialized successfully");
    }
}

/// What to do where the gate cannot listen.
pub(super) fn why_not(listen: &Listen, error: &io::Error) -> String {
    let what = match (error.kind(), listen) {
        (ErrorKind::AddrInUse, _) => "another process may have it".to_owned(),
        (ErrorKind::NotFound, Listen::Unix(path)) => {
            let folder = path.parent().unwrap_or(path).display();
            format!("the folder {folder} is not there: create it")
        }
        (ErrorKind::PermissionDenied, Listen::Unix(path)) => {
            let folder = path.parent().unwrap_or(path).display();
            format!("this user may not write to the folder {folder}")
        }
        (ErrorKind::PermissionDenied, Listen::Tcp(_)) => {
            "ports below 1024 take a right that this user lacks".to_owned()
        }
        (ErrorKind::AddrNotAvailable, _) => "no interface of this machine has that address".to_owned(),
        // The system's limit, 107 bytes on Linux.
        (ErrorKind::InvalidInput, Listen::Unix(_)) => "a socket's path must be short".to_owned(),
        _ => return "choose another with --listen".to_owned(),
    };
    format!("{what}; or choose another with --listen")
}

/// What to type next: a quota of one dollar a day, and a request for two.
pub(super) fn first_steps(address: &Listen) -> String {
    let (to, socket) = match address {
        Listen::Tcp(_) => (address.to_string(), String::new()),
        Listen::Unix(path) => ("http://localhost".to_owned(), format!("--unix-socket {} ", path.display())),
    };
    format!(
        "\nTry a denial, in another terminal:\n\n  \
         curl {socket}-X PUT {to}/v1/quotas/tenant/acme-corp/llm/day -H 'content-type: application/json' -d '{{\"limitUsd\": 1}}'\n  \
         curl {socket}-i {to}/v1/check -H 'content-type: application/json' \\\n    \
         -d '{{\"tenantId\": \"acme-corp\", \"resourceType\": \"llm\", \"estimatedCostUsd\": 2}}'\n\n\
         Ctrl-C stops the gate and its store.\n"
    )
}
