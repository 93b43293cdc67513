//! Decisions by COPY: what every reservation pays for, at a fraction of what an INSERT costs.

use std::fmt::Write as _;
use std::io::ErrorKind;

use chrono::SecondsFormat;

use super::{DecisionRow, columns};
use crate::store::link::STATEMENT_WITHIN;
use crate::store::{Link, StoreError};

const COPY: &str = concat!("COPY copilot_internal.decisions (", columns!(), ") FROM STDIN");

impl DecisionRow {
    /// Appends it as a line of COPY's text format.
    fn put_line(&self, lines: &mut String) {
        let id = self.id.hyphenated();
        let decided_at = self.decided_at.to_rfc3339_opts(SecondsFormat::Micros, true);
        // Writing to a String does not fail.
        let _ = write!(lines, "{id}\t{decided_at}");
        put_field(lines, Some(&self.tenant_id));
        put_field(lines, self.user_id.as_deref());
        put_field(lines, Some(&self.resource_type));
        put_field(lines, Some(&self.estimate.to_decimal()));
        put_field(lines, self.request_id.as_deref());
        put_field(lines, Some(self.outcome));
        put_field(lines, self.code.as_deref());
        put_field(lines, self.reason.as_deref());
        match self.quota_id {
            Some(quota) => _ = write!(lines, "\t{}", quota.hyphenated()),
            None => put_field(lines, None),
        }
        put_field(lines, Some(&self.policy_name));
        put_field(lines, Some(&self.policy_digest));
        put_field(lines, Some(&self.facts));
        lines.push('\n');
    }
}

/// A text as COPY reads it: what separates fields and lines, and the backslash, are written with one.
fn put_field(lines: &mut String, text: Option<&str>) {
    lines.push('\t');
    let Some(mut rest) = text else {
        lines.push_str("\\N");
        return;
    };
    while let Some(place) = rest.bytes().position(|byte| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r')) {
        let (plain, special) = rest.split_at(place);
        lines.push_str(plain);
        lines.push_str(match special.as_bytes()[0] {
            b'\t' => "\\t",
            b'\n' => "\\n",
            b'\r' => "\\r",
            _ => "\\\\",
        });
        rest = &special[1..];
    }
    lines.push_str(rest);
}

impl Link {
    /// Writes decisions that are not there yet. It costs a fraction of what
    /// [`Store::insert_decisions`](crate::store::Store::insert_decisions) does.
    ///
    /// # Errors
    /// The database does not answer, or one of them is there, or is refused; then none was written, unless the answer was
    /// lost.
    pub async fn copy_decisions(&mut self, rows: &[DecisionRow]) -> Result<(), StoreError> {
        let mut lines = String::with_capacity(rows.len() * 1_024);
        for row in rows {
            row.put_line(&mut lines);
        }
        let mut connection = self.take().await?;
        let copied = async {
            let mut copy = connection.copy_in_raw(COPY).await?;
            copy.send(lines.as_bytes()).await?;
            copy.finish().await?;
            Ok(())
        };
        // The server ends no COPY that waits for the rest of it.
        let copied = async {
            let silent = |_| StoreError::Slow(sqlx::Error::Io(ErrorKind::TimedOut.into()));
            tokio::time::timeout(STATEMENT_WITHIN, copied).await.map_err(silent)?
        };
        let copied = self.guard(copied).await;
        // After an error it may be in the middle of it.
        if copied.is_ok() {
            return self.give_back(connection, copied);
        }
        copied
    }
}
