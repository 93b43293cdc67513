//! Decisions by COPY: what every reservation pays for, at a fraction of what an INSERT costs.

use super::{DecisionRow, columns};
use crate::money::Money;
use crate::store::{Link, StoreError};

const COPY: &str = concat!("COPY copilot_internal.decisions (", columns!(), ") FROM STDIN (FORMAT binary)");
/// COPY's binary format begins with its signature, no flags and no extension of the header, and ends with a row of -1
/// fields: <https://www.postgresql.org/docs/15/sql-copy.html#id-1.9.3.55.9.4>. The server looks at no byte of a text but
/// for its encoding; of the text format it reads each three times.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
const FIELDS: [u8; 2] = 14_i16.to_be_bytes();
/// 2000-01-01, from which the server counts, in microseconds since the epoch.
const SERVERS_EPOCH: i64 = 946_684_800_000_000;

impl DecisionRow {
    /// Appends it as a row of COPY's binary format.
    fn put(&self, rows: &mut Vec<u8>) {
        rows.extend_from_slice(&FIELDS);
        put_field(rows, Some(self.id.as_bytes()));
        put_field(rows, Some(&(self.decided_at.timestamp_micros() - SERVERS_EPOCH).to_be_bytes()));
        put_text(rows, Some(&self.tenant_id));
        put_text(rows, self.user_id.as_deref());
        put_text(rows, Some(&self.resource_type));
        put_field(rows, Some(&numeric(self.estimate)));
        put_text(rows, self.request_id.as_deref());
        put_text(rows, Some(self.outcome));
        put_text(rows, self.code.as_deref());
        put_text(rows, self.reason.as_deref());
        put_field(rows, self.quota_id.as_ref().map(|id| id.as_bytes().as_slice()));
        put_text(rows, Some(&self.policy_name));
        put_text(rows, Some(&self.policy_digest));
        put_text(rows, Some(&self.facts));
    }
}

/// A field is its length and its bytes; nothing has the length -1.
fn put_field(rows: &mut Vec<u8>, field: Option<&[u8]>) {
    let length = field.map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap_or(i32::MAX));
    rows.extend_from_slice(&length.to_be_bytes());
    rows.extend_from_slice(field.unwrap_or_default());
}

fn put_text(rows: &mut Vec<u8>, text: Option<&str>) {
    put_field(rows, text.map(str::as_bytes));
}

/// An amount as the server sends and takes a `NUMERIC(20,9)`: how many digits of base 10,000, the weight of the first, the
/// sign, the decimals, and the digits: three before the point and three behind it. The server drops those that are 0.
fn numeric(amount: Money) -> [u8; 20] {
    const BASE: i128 = 10_000;
    let mut bytes = [0; 20];
    for (place, part) in [6_i16, 2, 0, 9].into_iter().enumerate() {
        bytes[place * 2..][..2].copy_from_slice(&part.to_be_bytes());
    }
    // Nine decimals fill two digits and a quarter of the third.
    let mut rest = i128::from(amount.nanos()) * 1_000;
    for digit in bytes[8..].rchunks_exact_mut(2) {
        digit.copy_from_slice(&i16::try_from(rest % BASE).unwrap_or_default().to_be_bytes());
        rest /= BASE;
    }
    bytes
}

impl Link {
    /// Writes decisions that are not there yet. It costs a fraction of what
    /// [`Store::insert_decisions`](crate::store::Store::insert_decisions) does.
    ///
    /// # Errors
    /// The database does not answer, or one of them is there, or is refused; then none was written, unless the answer was
    /// lost.
    pub async fn copy_decisions(&mut self, rows: &[DecisionRow]) -> Result<(), StoreError> {
        let mut data = Vec::with_capacity(rows.len() * 1_024);
        data.extend_from_slice(HEADER);
        for row in rows {
            row.put(&mut data);
        }
        data.extend_from_slice(&TRAILER);
        let mut connection = self.take().await?;
        let copied = async {
            let mut copy = connection.copy_in_raw(COPY).await?;
            copy.send(data.as_slice()).await?;
            copy.finish().await?;
            Ok(())
        };
        let copied = self.guard(copied).await;
        // After an error it may be in the middle of it.
        if copied.is_ok() {
            return self.give_back(connection, copied);
        }
        copied
    }
}
