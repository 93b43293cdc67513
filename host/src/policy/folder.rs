//! The policy folder: what `NAME.wasm` files there are, and the generation of policies that serves.
//!
//! A reload reads the folder, prepares every policy that changed (load, describe, settings,
//! fixtures under production limits) and then swaps one generation whole. A policy that does not
//! hold leaves its last good version serving. A request keeps the generation it began with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};

use super::engine::{self, Compiled, Engine, PolicyError};
use super::fixture::Fixtures;
use super::manifest::{Manifest, OnError};
use crate::decision::{Facts, PolicyRef, Verdict};
use crate::quota::Tier;

/// The policy of tenants without a tier, and of tiers without a file.
pub const STANDARD: &str = "standard";

/// A policy that passed its own fixtures, with the operator's settings.
pub struct Policy {
    reference: PolicyRef,
    compiled: Compiled,
    settings: Vec<(String, String)>,
    on_error: OnError,
    summary: String,
    version: String,
    since: DateTime<Utc>,
    /// Digest of the component, its manifest and its fixtures: what a reload compares.
    source: String,
}

impl Policy {
    /// Name and digest.
    pub fn reference(&self) -> &PolicyRef {
        &self.reference
    }

    /// What happens to a request when it fails.
    pub fn on_error(&self) -> OnError {
        self.on_error
    }

    /// The operator's values and the defaults, as the policy gets them.
    pub fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// One decision.
    ///
    /// # Errors
    /// The guest failed; see [`PolicyError`].
    pub fn decide(&self, facts: &Facts) -> Result<Verdict, PolicyError> {
        self.compiled.decide(facts, &self.settings)
    }

    /// For the decisions of one tenant within one batch.
    pub fn session(&self) -> Session<'_> {
        Session { policy: self, instance: self.compiled.session() }
    }

    fn prepare(engine: &Engine, name: &str, files: &Files, now: DateTime<Utc>) -> Result<Self, PolicyError> {
        let manifest = Manifest::parse(&files.manifest).map_err(|error| within(&format!("{name}.toml"), error))?;
        let limits = manifest.limits().map_err(|error| within(&format!("{name}.toml"), error))?;
        let compiled = engine.compile(&files.component, limits)?;
        let description = compiled.describe()?;
        let settings = manifest.resolve(&description).map_err(|error| within(&format!("{name}.toml"), error))?;
        compiled.validate_settings(&settings).map_err(|error| within("settings", error))?;
        let fixtures = Fixtures::parse(&files.fixtures)
            .map_err(|fault| PolicyError::Load(format!("{name}.fixtures.toml: {fault}")))?;
        let failed: Vec<String> = fixtures
            .run(&compiled, &Manifest::for_fixtures(&description, &settings))
            .into_iter()
            .filter(|case| !case.differences.is_empty())
            .map(|case| format!("{:?}: {}", case.name, case.differences.join(", ")))
            .collect();
        if !failed.is_empty() {
            return Err(PolicyError::Load(format!("{} fixtures failed: {}", failed.len(), failed.join("; "))));
        }
        Ok(Self {
            reference: PolicyRef { name: name.into(), digest: compiled.digest().clone() },
            compiled,
            settings,
            on_error: manifest.on_error,
            summary: description.summary,
            version: description.version,
            since: now,
            source: files.digest(),
        })
    }
}

/// A policy's instance for the decisions of one tenant within one batch.
pub struct Session<'a> {
    policy: &'a Policy,
    instance: engine::Session<'a>,
}

impl<'a> Session<'a> {
    /// Whose.
    pub fn policy(&self) -> &'a Policy {
        self.policy
    }

    /// One decision.
    ///
    /// # Errors
    /// The guest failed; the next call gets a new instance.
    pub fn decide(&mut self, facts: &Facts) -> Result<Verdict, PolicyError> {
        self.instance.decide(facts, &self.policy.settings)
    }
}

/// Names the file or part in which a load error lies; other kinds name themselves.
fn within(part: &str, error: PolicyError) -> PolicyError {
    match error {
        PolicyError::Load(fault) => PolicyError::Load(format!("{part}: {fault}")),
        other => other,
    }
}

/// The policies that serve together, and why others do not.
pub struct Generation {
    standard: Arc<Policy>,
    /// All of them, the standard one too.
    policies: BTreeMap<String, Arc<Policy>>,
    refused: BTreeMap<String, PolicyError>,
    /// Those of the refused that have never served since the host started: it does not know what served before.
    unserved: BTreeSet<String>,
}

impl Generation {
    /// The policy for a tier: its own, or the standard one where it has no file.
    ///
    /// # Errors
    /// The tier had a file when the host started, and it does not hold: the standard policy was not meant for this tier,
    /// and may allow what its own would not. A broken file that comes later leaves serving what served before.
    pub fn for_tier(&self, tier: Option<&Tier>) -> Result<&Policy, &PolicyError> {
        let Some(name) = tier.map(Tier::as_str) else { return Ok(&self.standard) };
        match (self.policies.get(name), self.refused.get(name)) {
            (Some(policy), _) => Ok(policy),
            (None, Some(error)) if self.unserved.contains(name) => Err(error),
            (None, _) => Ok(&self.standard),
        }
    }

    /// The standard policy.
    pub fn standard(&self) -> &Policy {
        &self.standard
    }

    /// The settings of a policy that decided in this generation.
    pub fn settings_of(&self, policy: &PolicyRef) -> &[(String, String)] {
        self.policies.get(&*policy.name).map_or(&[], |policy| policy.settings())
    }

    /// How many files of the folder do not serve.
    pub fn refused(&self) -> usize {
        self.refused.len()
    }

    /// Every policy that serves or was refused, by name.
    pub fn statuses(&self) -> Vec<Status> {
        let names: BTreeSet<&String> = self.policies.keys().chain(self.refused.keys()).collect();
        names
            .into_iter()
            .map(|name| Status {
                name: name.clone(),
                serving: self.policies.get(name).map(|policy| Serving {
                    digest: policy.reference.digest.clone(),
                    since: policy.since,
                    version: policy.version.clone(),
                    summary: policy.summary.clone(),
                }),
                last_error: self.refused.get(name).cloned(),
            })
            .collect()
    }
}

/// How one policy of the folder stands.
pub struct Status {
    /// File name without `.wasm`.
    pub name: String,
    /// What serves under this name.
    pub serving: Option<Serving>,
    /// Why the file that lies there now does not.
    pub last_error: Option<PolicyError>,
}

/// A version that serves.
pub struct Serving {
    /// Of the component's bytes.
    pub digest: Arc<str>,
    /// When it went live here.
    pub since: DateTime<Utc>,
    /// The policy's own words.
    pub version: String,
    /// The policy's own words.
    pub summary: String,
}

/// The folder and the generation that serves.
pub struct Folder {
    dir: PathBuf,
    engine: Engine,
    current: ArcSwap<Generation>,
    /// One reload at a time.
    reloading: Mutex<()>,
}

impl Folder {
    /// Reads the folder for the first time. Blocks while it compiles.
    ///
    /// # Errors
    /// The folder cannot be read, or it has no standard policy that holds.
    pub fn open(dir: PathBuf, now: DateTime<Utc>) -> Result<Self, PolicyError> {
        let engine = Engine::new()?;
        let first = read(&dir, &engine, None, now)?;
        Ok(Self { dir, engine, current: ArcSwap::from_pointee(first), reloading: Mutex::default() })
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The generation that serves now. Hold it for one request or batch.
    pub fn generation(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    /// Reads the folder again and swaps the generation. Blocks while it compiles.
    ///
    /// # Errors
    /// The folder cannot be read; the last generation serves on. Single policies that do not hold
    /// are no error here: the generation's [`statuses`](Generation::statuses) tell.
    pub fn reload(&self, now: DateTime<Utc>) -> Result<Arc<Generation>, PolicyError> {
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let next = read(&self.dir, &self.engine, Some(&self.generation()), now);
        crate::metrics::reloaded(next.as_ref().is_ok_and(|next| next.refused() == 0));
        let next = Arc::new(next?);
        self.current.store(next.clone());
        Ok(next)
    }
}

/// The generation that the folder holds now; what does not hold stays as it is in `serving`.
fn read(
    dir: &Path,
    engine: &Engine,
    serving: Option<&Generation>,
    now: DateTime<Utc>,
) -> Result<Generation, PolicyError> {
    let (mut policies, mut refused, mut unserved) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    for name in names(dir)? {
        let last_good = serving.and_then(|serving| serving.policies.get(&name));
        match prepare(dir, engine, &name, last_good, now) {
            Ok(policy) => {
                policies.insert(name, policy);
            }
            Err(error) => {
                tracing::error!(policy = name, kind = error.kind(), reason = %error, "Policy refused");
                if let Some(policy) = last_good {
                    policies.insert(name.clone(), policy.clone());
                } else if serving.is_none_or(|serving| serving.unserved.contains(&name)) {
                    unserved.insert(name.clone());
                }
                refused.insert(name, error);
            }
        }
    }
    let standard = match (policies.get(STANDARD), serving, refused.get(STANDARD)) {
        (Some(standard), _, _) => standard.clone(),
        // Without a standard policy nobody without a tier could be answered: the file may go, the policy stays.
        (None, Some(serving), _) => {
            let gone =
                PolicyError::Load("standard.wasm is gone from the folder; its last version serves on".to_owned());
            refused.entry(STANDARD.to_owned()).or_insert(gone);
            policies.insert(STANDARD.to_owned(), serving.standard.clone());
            serving.standard.clone()
        }
        (None, None, Some(error)) => return Err(within("standard.wasm", error.clone())),
        (None, None, None) => return Err(PolicyError::Load(format!("{} has no standard.wasm", dir.display()))),
    };
    Ok(Generation { standard, policies, refused, unserved })
}

fn prepare(
    dir: &Path,
    engine: &Engine,
    name: &str,
    last_good: Option<&Arc<Policy>>,
    now: DateTime<Utc>,
) -> Result<Arc<Policy>, PolicyError> {
    let files = Files::read(dir, name)?;
    if let Some(policy) = last_good
        && policy.source == files.digest()
    {
        return Ok(policy.clone());
    }
    let policy = Policy::prepare(engine, name, &files, now)?;
    tracing::info!(policy = name, digest = %policy.reference.digest, "Policy live");
    Ok(Arc::new(policy))
}

/// `NAME` of every `NAME.wasm` where `NAME` is a tier name; candidates (`NAME.next.wasm`) have a dot.
fn names(dir: &Path) -> Result<Vec<String>, PolicyError> {
    let unreadable =
        |error: std::io::Error| PolicyError::Load(format!("cannot read the policy folder {}: {error}", dir.display()));
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.file_name();
        if let Some(name) = file.to_str().and_then(|file| file.strip_suffix(".wasm"))
            && Tier::parse(name).is_ok()
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A policy's files as they lie in the folder; what is not there is empty.
struct Files {
    component: Vec<u8>,
    manifest: String,
    fixtures: String,
}

impl Files {
    fn read(dir: &Path, name: &str) -> Result<Self, PolicyError> {
        let text = |file: String| match fs::read_to_string(dir.join(&file)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            other => other.map_err(|error| PolicyError::Load(format!("{file}: {error}"))),
        };
        Ok(Self {
            component: fs::read(dir.join(format!("{name}.wasm")))
                .map_err(|error| PolicyError::Load(format!("{name}.wasm: {error}")))?,
            manifest: text(format!("{name}.toml"))?,
            fixtures: text(format!("{name}.fixtures.toml"))?,
        })
    }

    fn digest(&self) -> String {
        let parts = [self.component.as_slice(), self.manifest.as_bytes(), self.fixtures.as_bytes()];
        // Digests of the parts, so that moving a byte from one to the next changes the whole.
        engine::digest(parts.map(engine::digest).concat().as_bytes())
    }
}
