//! Logs: JSON lines, one flat object each: `timestamp`, `level`, `message`, then the event's fields,
//! then those of the request for which it happened.

use std::fmt;
use std::io::Write as _;

use chrono::SecondsFormat;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::clock::Clock;
use crate::origin::Current;

/// Fields that hold amounts: written as the decimal numbers that they are.
const AMOUNTS: [&str; 5] = ["estimatedCostUsd", "currentSpend", "limit", "allowedUsd", "replayedUsd"];

/// Sends events to stdout, by a thread of its own: a reader who does not read delays no answer, and what he would
/// not take is dropped. Keep the guard until the end; dropping it writes the rest.
///
/// # Errors
/// `level` is neither a level nor a list of `target=level`.
pub fn to_stdout(level: &str, clock: Clock) -> Result<WorkerGuard, String> {
    let (writer, guard) = NonBlockingBuilder::default().lossy(true).finish(std::io::stdout());
    init(level, JsonLines { writer, clock })?;
    Ok(guard)
}

/// Sends warnings and errors to stderr: for commands whose stdout is their answer.
pub fn to_stderr() {
    // Only one subscriber is ever set per process.
    let _ = init("warn", JsonLines { writer: std::io::stderr, clock: Clock::System });
}

fn init<W: for<'w> MakeWriter<'w> + Send + Sync + 'static>(level: &str, lines: JsonLines<W>) -> Result<(), String> {
    let own =
        level.parse::<Level>().map(|level| Targets::new().with_target("tollgate", level).with_default(Level::WARN));
    // A word alone would be read as a target.
    let list = || if level.contains('=') { level.parse::<Targets>().ok() } else { None };
    let filter = own
        .ok()
        .or_else(list)
        .ok_or_else(|| format!("error, warn, info, debug, trace or a list of target=level, got {level:?}"))?;
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init().map_err(|error| error.to_string())
}

struct JsonLines<W> {
    writer: W,
    clock: Clock,
}

impl<S: Subscriber, W: for<'w> MakeWriter<'w> + 'static> Layer<S> for JsonLines<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line(Map::new());
        event.record(&mut line);
        let message = line.0.remove("message").unwrap_or_default();
        let timestamp = self.clock.now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let mut text = Vec::new();
        let _ = write!(text, "{{\"timestamp\":\"{timestamp}\",\"level\":\"{level}\",\"message\":{message}");
        for (name, value) in &line.0 {
            let value = match value {
                Value::String(amount) if AMOUNTS.contains(&name.as_str()) => amount.clone(),
                other => other.to_string(),
            };
            let _ = write!(text, ",{}:{value}", Value::String(name.clone()));
        }
        for (name, value) in Current::get().fields() {
            let _ = write!(text, ",\"{name}\":{}", Value::from(value));
        }
        text.extend_from_slice(b"}\n");
        // Nobody is left to tell.
        let _ = self.writer.make_writer().write_all(&text);
    }
}

/// An event's fields.
struct Line(Map<String, Value>);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), Value::String(value.to_owned()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}
