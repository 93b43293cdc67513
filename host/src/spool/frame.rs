//! One record in the file: a mark, its length, a checksum, and itself. After a damaged one the next mark goes on.

use std::io::{self, Read as _};

use sha2::{Digest as _, Sha256};

const MARK: [u8; 4] = [0xf5, b'T', b'G', 1];
const SUM: usize = 8;
const HEAD: usize = MARK.len() + 4 + SUM;

/// `record` as it is written.
pub(super) fn framed(record: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + record.len());
    frame.extend_from_slice(&MARK);
    frame.extend_from_slice(&u32::try_from(record.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend_from_slice(&sum(record));
    frame.extend_from_slice(record);
    frame
}

fn sum(record: &[u8]) -> [u8; SUM] {
    let mut sum = [0; SUM];
    sum.copy_from_slice(&Sha256::digest(record)[..SUM]);
    sum
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Scan<'a> {
    pub(super) records: Vec<&'a [u8]>,
    /// Bytes between records that are none.
    pub(super) damaged: Vec<&'a [u8]>,
    /// The last record is not all there.
    pub(super) torn: bool,
    /// Where the last whole record ends.
    pub(super) end: u64,
}

/// The first record, if there is a whole one at the start; `None` too where the file is being changed.
pub(super) fn first(mut file: impl io::Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::with_capacity(HEAD);
    file.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    let Some((length, _)) = head.strip_prefix(&MARK).and_then(|rest| rest.split_first_chunk::<4>()) else {
        return Ok(None);
    };
    file.take(u64::from(u32::from_le_bytes(*length))).read_to_end(&mut head)?;
    Ok(record(&head).map(<[u8]>::to_vec))
}

/// Reads every whole record.
pub(super) fn scan(bytes: &[u8]) -> Scan<'_> {
    let (mut found, mut at) = (Scan::default(), 0);
    while at < bytes.len() {
        if let Some(record) = record(&bytes[at..]) {
            found.records.push(record);
            at += HEAD + record.len();
            found.end = at as u64;
            continue;
        }
        match (at + 1..bytes.len()).find(|&next| record(&bytes[next..]).is_some()) {
            Some(next) => {
                found.damaged.push(&bytes[at..next]);
                at = next;
            }
            None if is_unfinished(&bytes[at..]) => {
                found.torn = true;
                break;
            }
            None => {
                found.damaged.push(&bytes[at..]);
                break;
            }
        }
    }
    found
}

/// The record that starts here, if it is whole.
fn record(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(&MARK)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (expected, rest) = rest.split_first_chunk::<SUM>()?;
    let record = rest.get(..u32::from_le_bytes(*length) as usize)?;
    (sum(record) == *expected).then_some(record)
}

/// Whether the file ends before the record does that starts here.
fn is_unfinished(bytes: &[u8]) -> bool {
    let Some(rest) = bytes.strip_prefix(&MARK) else { return MARK.starts_with(bytes) };
    let Some((length, rest)) = rest.split_first_chunk::<4>() else { return true };
    rest.len() < SUM + u32::from_le_bytes(*length) as usize
}
