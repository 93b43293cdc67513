//! How the folder stands, for the metrics: a change counts once, however often it is looked at, and whoever looks first.

use std::sync::Arc;

use super::Folder;
use super::generation::Generation;
use super::memory::Memory;
use super::policy::Edition;
use crate::metrics;
use crate::policy::engine::PolicyError;

/// What serves and runs in shadow, and what was refused and why: two that stand alike differ in nothing that counts.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Standing {
    live: Vec<Edition>,
    candidates: Vec<Edition>,
    refused: Vec<Refused>,
}

/// A file that does not hold, by its name, its content (nothing, where it was not read) and the reason.
type Refused = (String, Option<String>, PolicyError);

impl Standing {
    fn of(generation: &Generation, memory: &Memory) -> Self {
        Self {
            live: generation.policies.values().map(|policy| policy.edition.clone()).collect(),
            candidates: generation.candidates.values().map(|candidate| candidate.policy.edition.clone()).collect(),
            refused: memory.refused(),
        }
    }
}

impl Folder {
    /// The first generation: a start is no reload, but what it refuses has to be seen.
    pub(super) fn count_start(&self) {
        let generation = self.generation();
        if generation.refused() > 0 {
            metrics::reloaded(false);
        }
        let mut memory = self.memory();
        memory.counted = Standing::of(&generation, &memory);
    }

    /// Somebody asked for this reload: it counts, whatever it found.
    pub(super) fn count_reload(&self, memory: &mut Memory) -> Arc<Generation> {
        let generation = self.generation();
        metrics::reloaded(generation.refused() == 0);
        memory.counted = Standing::of(&generation, memory);
        generation
    }

    /// A look counts if something has changed; as refused, if that is another refusal.
    pub(super) fn count_change(&self, memory: &mut Memory) {
        let now = Standing::of(&self.generation(), memory);
        if now != memory.counted {
            metrics::reloaded(now.refused.iter().all(|refused| memory.counted.refused.contains(refused)));
            memory.counted = now;
        }
    }
}
