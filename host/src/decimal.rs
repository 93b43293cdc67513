//! Decimal numbers as text and as JSON, exact: no float, and no allocation.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// A decimal number as text, in place: every answer has several.
pub struct Decimal {
    /// At its end.
    text: [u8; Self::LONGEST],
    start: usize,
    end: usize,
}

impl Decimal {
    /// A sign, nineteen digits, a point, and what stands before it where there are fewer digits than decimals.
    const LONGEST: usize = 32;

    /// `units` of 10^-`decimals`, zeros at the end left out, but for the first `least` decimals. `decimals` is 1 to 18.
    pub fn of(units: i64, decimals: usize, least: usize) -> Self {
        let mut number = Self { text: [b'0'; Self::LONGEST], start: Self::LONGEST, end: Self::LONGEST };
        let mut left = units.unsigned_abs();
        let mut written = 0;
        // One digit stands before the point.
        while left > 0 || written <= decimals {
            let digit = b'0' + u8::try_from(left % 10).unwrap_or_default();
            left /= 10;
            let is_left_out = digit == b'0' && written + least < decimals && number.start == number.end;
            if is_left_out {
                number.end -= 1;
                number.start -= 1;
            } else {
                number.push(digit);
            }
            written += 1;
            if written == decimals {
                number.push(b'.');
            }
        }
        if units < 0 {
            number.push(b'-');
        }
        number
    }

    fn push(&mut self, byte: u8) {
        self.start -= 1;
        self.text[self.start] = byte;
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Digits, a point and a sign.
        std::str::from_utf8(&self.text[self.start..self.end]).unwrap_or_default()
    }
}

/// A JSON number with these digits, never by way of a float.
impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number: &RawValue = serde_json::from_str(self.as_str()).map_err(serde::ser::Error::custom)?;
        number.serialize(serializer)
    }
}
