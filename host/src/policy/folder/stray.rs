//! Strays: files of the folder that look like a policy's and are read by nobody. Most are misnamed, and a fixtures file
//! that is misnamed means that its policy goes live untested.

use std::collections::BTreeMap;
use std::path::Path;

use super::files::{self, Listing};
use crate::nearest;
use crate::policy::engine::PolicyError;
use crate::quota::Tier;

/// The strays in `dir` and, for each, why nobody reads it.
///
/// # Errors
/// The folder cannot be read.
pub fn strays(dir: &Path) -> Result<BTreeMap<String, String>, PolicyError> {
    Ok(among(&files::list(dir)?))
}

pub(super) fn among(listing: &Listing) -> BTreeMap<String, String> {
    listing.others.iter().filter_map(|file| Some((file.clone(), why(file, listing)?))).collect()
}

/// Why nobody reads the file; nothing, if it belongs to a policy.
fn why(file: &str, listing: &Listing) -> Option<String> {
    let is_policy = |name: &str| listing.live.contains(name) || listing.candidates.contains(name);
    if let Some(stem) = file.strip_suffix(".wasm") {
        return match stem.strip_suffix(".previous") {
            Some(name) if Tier::parse(name).is_ok() => None,
            _ => Some(format!("a policy is NAME.wasm, a candidate NAME.next.wasm, with NAME the tier's{}", like(file))),
        };
    }
    let stem = file.strip_suffix(".fixtures.toml").or_else(|| file.strip_suffix(".toml")).unwrap_or_default();
    let (name, is_next) = match (stem.strip_suffix(".next"), stem.strip_suffix(".previous")) {
        (Some(name), _) => (name, true),
        (None, Some(name)) if Tier::parse(name).is_ok() => return None,
        (None, _) => (stem, false),
    };
    let missing = match (Tier::parse(name).is_ok(), is_next) {
        (true, true) if listing.candidates.contains(name) => return None,
        (true, false) if is_policy(name) => return None,
        (true, _) => format!("there is no {stem}.wasm"),
        (false, _) => "no policy has a file of this name".to_owned(),
    };
    let names = || listing.live.iter().chain(&listing.candidates);
    let known = names().flat_map(|name| ["toml", "fixtures.toml"].map(|part| format!("{name}.{part}")));
    let next = listing.candidates.iter();
    let known = known.chain(next.flat_map(|name| ["toml", "fixtures.toml"].map(|part| format!("{name}.next.{part}"))));
    let known: Vec<String> = known.collect();
    Some(format!("{missing}{}", nearest::hint(file, known.iter().map(String::as_str))))
}

/// The name in lower case, if it is one that would be read.
fn like(file: &str) -> String {
    let lower = file.to_ascii_lowercase();
    let stem = lower.strip_suffix(".wasm").unwrap_or_default();
    let is_one = Tier::parse(stem.strip_suffix(".next").unwrap_or(stem)).is_ok();
    if is_one { nearest::hint(file, std::iter::once(lower.as_str())) } else { String::new() }
}
