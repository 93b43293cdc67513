//! `policy bench`: what a decision takes, against a saved run and against limits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::source::{Source, compiler};
use super::{Failure, shown, table};
use crate::cli::PolicyBenchArgs;
use crate::policy::Engine;
use crate::policy::compile::Compiler;
use crate::policy::measure::{Counter, times};

/// What one policy takes for the decisions of its fixtures.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Figures {
    digest: String,
    median_nanos: u64,
    p99_nanos: u64,
    /// The most of any decision.
    fuel: u64,
    /// The most of any decision.
    memory_bytes: u64,
}

/// By policy; what `--save` writes.
type Run = BTreeMap<String, Figures>;

pub(super) fn run(components: &[PathBuf], args: &PolicyBenchArgs) -> Result<(), Failure> {
    let max_p99 = args.max_p99.as_deref().map(nanos).transpose()?;
    let before = args.against.as_deref().map(read).transpose()?;
    let bench = Bench { engine: Engine::new()?, counter: Counter::new()?, compiler: compiler() };
    let mut run = Run::new();
    for component in components {
        let source = Source::read(component)?;
        if run.contains_key(&source.name) {
            return Err(Failure::new(format!("{}: a second policy of the name {}", shown(component), source.name))
                .hint("measure them one by one, with --save and --against"));
        }
        run.insert(source.name.clone(), bench.measure(&source, Duration::from_millis(args.time))?);
    }
    if let Some(path) = &args.save {
        let text = serde_json::to_string_pretty(&run).map_err(|error| Failure::caused(&error))?;
        fs::write(path, text + "\n").map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&run).map_err(|error| Failure::caused(&error))?);
    } else {
        print(&run, before.as_ref());
    }
    hold_the_line(&run, args.max_fuel, max_p99)
}

/// What measuring needs, made once.
struct Bench {
    engine: Engine,
    counter: Counter,
    compiler: Compiler,
}

impl Bench {
    fn measure(&self, source: &Source, long: Duration) -> Result<Figures, Failure> {
        let in_source = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", source.path.display()));
        let ready = source.compile(&self.engine, &self.compiler)?;
        let questions = source.fixtures.as_ref().map(|fixtures| fixtures.questions(&ready.settings_of_fixtures));
        let questions = questions.filter(|questions| !questions.is_empty()).ok_or_else(|| {
            in_source(&"no fixtures, and so nothing to measure")
                .hint("a policy's fixtures lie beside it, as NAME.fixtures.toml")
        })?;
        let costs = source.costs(&self.counter, &self.compiler, &questions)?;
        let times = times(&ready.compiled, &questions, long).map_err(|error| in_source(&error))?;
        Ok(Figures {
            digest: ready.reference.digest.to_string(),
            median_nanos: times.median,
            p99_nanos: times.p99,
            fuel: costs.fuel,
            memory_bytes: costs.memory,
        })
    }
}

fn read(path: &Path) -> Result<Run, Failure> {
    let fault = |error: &dyn std::fmt::Display| {
        Failure::new(format!("{}: {error}", path.display())).hint("--against wants a file that --save has written")
    };
    let text = fs::read_to_string(path).map_err(|error| fault(&error))?;
    serde_json::from_str(&text).map_err(|error| fault(&error))
}

fn print(run: &Run, before: Option<&Run>) {
    let header = ["POLICY", "MEDIAN", "P99", "FUEL", "MEMORY"];
    let rows = run.iter().map(|(name, now)| {
        let then = before.and_then(|before| before.get(name));
        let with = |shown: String, now: u64, then: Option<u64>| match then {
            None => shown,
            Some(then) => format!("{shown} ({})", change(now, then)),
        };
        [
            name.clone(),
            with(time(now.median_nanos), now.median_nanos, then.map(|then| then.median_nanos)),
            with(time(now.p99_nanos), now.p99_nanos, then.map(|then| then.p99_nanos)),
            with(now.fuel.to_string(), now.fuel, then.map(|then| then.fuel)),
            with(format!("{} KiB", now.memory_bytes >> 10), now.memory_bytes, then.map(|then| then.memory_bytes)),
        ]
    });
    table::print(header, rows.collect(), &[1, 2, 3, 4]);
}

/// In percent, with one decimal.
fn change(now: u64, then: u64) -> String {
    if now == then {
        return "same".to_owned();
    }
    let permille = i128::from(now.abs_diff(then)) * 1000 / i128::from(then.max(1));
    let sign = if now < then { '-' } else { '+' };
    format!("{sign}{}.{} %", permille / 10, permille % 10)
}

fn time(nanos: u64) -> String {
    format!("{}.{} µs", nanos / 1000, nanos % 1000 / 100)
}

/// `800ns`, `50us`, `50µs`, `2ms`.
fn nanos(text: &str) -> Result<u64, Failure> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let unit = match unit {
        "ns" => Some(1),
        "us" | "µs" => Some(1_000),
        "ms" => Some(1_000_000),
        _ => None,
    };
    let nanos = unit.and_then(|unit| count.parse::<u64>().ok()?.checked_mul(unit));
    nanos.ok_or_else(|| Failure::new(format!("--max-p99: a time such as 800ns, 50us or 2ms, got {text:?}")))
}

fn hold_the_line(run: &Run, max_fuel: Option<u64>, max_p99: Option<u64>) -> Result<(), Failure> {
    let mut over = Vec::new();
    for (name, figures) in run {
        if let Some(most) = max_fuel.filter(|most| figures.fuel > *most) {
            over.push(format!("{name} takes {} instructions, more than --max-fuel {most}", figures.fuel));
        }
        if let Some(most) = max_p99.filter(|most| figures.p99_nanos > *most) {
            let (p99, most) = (time(figures.p99_nanos), time(most));
            over.push(format!("{name} takes {p99} at the 99th percentile, more than --max-p99 {most}"));
        }
    }
    if over.is_empty() { Ok(()) } else { Err(Failure { exit: 1, ..Failure::new(over.join("\n       ")) }) }
}
