//! Exploring: generated facts at a policy, to find what no fixture thought of.
//!
//! 1. questions are made: those of the fixtures, then boundaries, then random ones from a seed (`questions`);
//! 2. each is asked, and what no policy should do is noticed (`laws`);
//! 3. the first that breaks a law is made as small as it goes (`shrink`), and printed as a fixture.

mod laws;
mod questions;
mod shrink;

use crate::decision::{Facts, Request, Verdict};
use crate::money::Money;
use crate::policy::engine::Compiled;
use crate::policy::paste::{self, Expected};

pub use self::laws::Law;
use self::laws::{Broken, Raise, Suspect, ask, broken, raises};
use self::questions::Questions;

/// Answers that break a law, after which it stops: it is clear by then, and each timeout takes its time.
const ENOUGH: u32 = 200;

/// Facts, and the settings that a policy is asked under.
#[derive(Clone, Debug)]
pub struct Question {
    /// What it sees.
    pub facts: Facts,
    /// All of its settings.
    pub settings: Vec<(String, String)>,
}

/// What to explore with.
#[derive(Debug)]
pub struct Plan {
    /// The same seed asks the same questions.
    pub seed: u64,
    /// How many questions; each is asked several times.
    pub questions: u32,
    /// Questions to start from: those of the fixtures.
    pub known: Vec<Question>,
    /// The settings that a fixture has without saying so.
    pub defaults: Vec<(String, String)>,
    /// The settings of questions that are no fixture's: those that are served.
    pub settings: Vec<(String, String)>,
}

/// A law that the policy breaks, and how.
#[derive(Debug)]
pub struct Finding {
    /// Which.
    pub law: Law,
    /// What it did, in a sentence.
    pub told: String,
    /// The smallest case that was found, as fixtures.
    pub fixtures: String,
    /// How many questions showed it.
    pub times: u32,
}

/// What exploring came to.
#[derive(Debug)]
pub struct Explored {
    /// Questions asked.
    pub questions: u32,
    /// At most one for each law.
    pub findings: Vec<Finding>,
}

/// Asks `policy` what `plan` says; `progress` hears of each question.
pub fn explore(policy: &Compiled, plan: &Plan, mut progress: impl FnMut(u32)) -> Explored {
    let mut found: Vec<(Suspect, Broken, u32)> = Vec::new();
    let mut questions = Questions::new(plan);
    let (mut asked, mut broken_so_far) = (0, 0);
    while asked < plan.questions && broken_so_far < ENOUGH {
        let question = questions.next();
        asked += 1;
        progress(asked);
        let alone = Suspect { question, raise: Raise::Nothing };
        let Some((suspect, broken)) = judge(policy, alone, &mut questions) else { continue };
        broken_so_far += 1;
        match found.iter_mut().find(|(_, before, _)| before.law == broken.law) {
            Some((_, _, times)) => *times += 1,
            None => found.push((suspect, broken, 1)),
        }
    }
    let findings = found.into_iter().map(|(suspect, broken, times)| {
        let (suspect, broken) = shrink::shrink(policy, &plan.settings, suspect, broken);
        Finding { law: broken.law, fixtures: fixtures(policy, plan, &suspect, &broken), told: broken.told, times }
    });
    Explored { questions: asked, findings: findings.collect() }
}

/// Asks a question by itself, and then beside others that ask for more or less.
fn judge(policy: &Compiled, alone: Suspect, questions: &mut Questions<'_>) -> Option<(Suspect, Broken)> {
    if let Some(broken) = broken(policy, &alone) {
        return Some((alone, broken));
    }
    raises(&alone.question, questions).into_iter().find_map(|suspect| {
        let broken = broken(policy, &suspect)?;
        Some((suspect, broken))
    })
}

fn fixtures(policy: &Compiled, plan: &Plan, suspect: &Suspect, broken: &Broken) -> String {
    let own = |question: &Question| -> Vec<(String, String)> {
        question.settings.iter().filter(|pair| !plan.defaults.contains(pair)).cloned().collect()
    };
    let found = format!("Found by --explore --seed {}: {}", plan.seed, broken.told);
    let case = |name: &str, note: &[String], question: &Question, expected: &Expected<'_>| {
        paste::case(name, note, &question.facts, &own(question), expected)
    };
    let denied = Expected::Deny { code: None, reason: None, quota: None };
    let lower = &suspect.question;
    match broken.law {
        Law::Failure(_) => {
            let notes = [found, "Say here what it should answer.".to_owned()];
            case("answers", &notes, lower, &denied)
        }
        Law::Differs => {
            let expected = match ask(policy, lower) {
                Ok(Verdict::Allow { at_most, .. }) => Expected::Allow { at_most },
                _ => denied,
            };
            let notes = [found, "A fixture is asked once, in a new instance, and may pass.".to_owned()];
            case("answers the same twice", &notes, lower, &expected)
        }
        Law::Estimate | Law::Spend => {
            let first = case("denies this", &[found], lower, &denied);
            let more = case("and denies more", &[], &suspect.raised(), &denied);
            format!("{first}\n{more}")
        }
    }
}

/// The same question with something of its request changed.
fn with_request(question: &Question, change: impl FnOnce(&mut Request)) -> Question {
    let mut changed = question.clone();
    let mut request = (*changed.facts.request).clone();
    change(&mut request);
    changed.facts.request = request.into();
    changed
}
