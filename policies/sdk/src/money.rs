//! Reading, writing and taking percentages of exact money.

use std::fmt;
use std::str::FromStr;

use crate::NanoUsd;

const DOLLAR: u64 = 1_000_000_000;
const CENT: u64 = DOLLAR / 100;

/// The largest amount that Tollgate knows: a thousand million US dollars, 10^18 nano-dollars.
pub const MAX_AMOUNT: NanoUsd = 1_000_000_000_000_000_000;

/// An amount of US dollars, given in nano-dollars, as people read and write it.
///
/// Displayed with a dollar sign and cents, or with as many decimals as the amount has: `$50.00`, `$0.005`, `-$1.00`.
/// Parsed strictly: digits, then at most nine decimals after a point; no sign, space, exponent or separator;
/// from 0 to [`MAX_AMOUNT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Usd(pub NanoUsd);

impl fmt::Display for Usd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let amount = self.0.unsigned_abs();
        let (dollars, mut decimals) = (amount / DOLLAR, amount % DOLLAR);
        if decimals.is_multiple_of(CENT) {
            return write!(out, "{sign}${dollars}.{:02}", decimals / CENT);
        }
        let mut digits = 9;
        while decimals.is_multiple_of(10) {
            decimals /= 10;
            digits -= 1;
        }
        write!(out, "{sign}${dollars}.{decimals:0digits$}")
    }
}

/// The text is not an amount as [`Usd`] is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnAmount;

impl FromStr for Usd {
    type Err = NotAnAmount;

    fn from_str(text: &str) -> Result<Self, NotAnAmount> {
        let (dollars, decimals) = match text.split_once('.') {
            Some((dollars, decimals)) => (dollars, decimals),
            None => (text, "0"),
        };
        if dollars.is_empty() || decimals.is_empty() || decimals.len() > 9 {
            return Err(NotAnAmount);
        }
        let mut amount: NanoUsd = 0;
        let padding = (decimals.len()..9).map(|_| b'0');
        for digit in dollars.bytes().chain(decimals.bytes()).chain(padding) {
            if !digit.is_ascii_digit() {
                return Err(NotAnAmount);
            }
            let digit = NanoUsd::from(digit - b'0');
            // Later digits only make it larger, so the first excess ends it, long before anything can overflow.
            amount = match amount.checked_mul(10) {
                Some(amount) if amount <= MAX_AMOUNT - digit => amount + digit,
                _ => return Err(NotAnAmount),
            };
        }
        Ok(Self(amount))
    }
}

/// A percentage of an amount, rounded down to the nano-dollar; `i64::MAX` or `i64::MIN` where it would not fit.
///
/// A limit with ten percent on top is `percent_of(limit, 110)`.
pub fn percent_of(amount: NanoUsd, percent: u32) -> NanoUsd {
    // Hundreds and the rest apart: exact, and without the wide division that i128 would link into every policy.
    let percent = i64::from(percent);
    match amount.div_euclid(100).checked_mul(percent) {
        Some(hundreds) => hundreds.saturating_add(amount.rem_euclid(100) * percent / 100),
        None if amount < 0 => NanoUsd::MIN,
        None => NanoUsd::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<i64, NotAnAmount> {
        text.parse().map(|Usd(amount)| amount)
    }

    #[test]
    fn amounts_show_cents_and_below_a_cent_every_digit() {
        for (amount, text) in [
            (0, "$0.00"),
            (50_000_000_000, "$50.00"),
            (48_500_000_000, "$48.50"),
            (48_505_000_000, "$48.505"),
            (5_000_000, "$0.005"),
            (10_000_000, "$0.01"),
            (100, "$0.0000001"),
            (1, "$0.000000001"),
            (1_000_000_001, "$1.000000001"),
            (-1_000_000_000, "-$1.00"),
            (-5_000_000, "-$0.005"),
            (MAX_AMOUNT, "$1000000000.00"),
            (i64::MAX, "$9223372036.854775807"),
            (i64::MIN, "-$9223372036.854775808"),
        ] {
            assert_eq!(Usd(amount).to_string(), text);
        }
    }

    #[test]
    fn strict_decimals_are_read_exactly() {
        for (text, amount) in [
            ("0", 0),
            ("1", 1_000_000_000),
            ("1.00", 1_000_000_000),
            ("0.1", 100_000_000),
            ("0.000000001", 1),
            ("123.456789012", 123_456_789_012),
            ("1000000000", MAX_AMOUNT),
            ("1000000000.000000000", MAX_AMOUNT),
        ] {
            assert_eq!(read(text), Ok(amount), "{text}");
        }
    }

    #[test]
    fn anything_else_is_not_an_amount() {
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1e3",
            "1,00",
            "1_000",
            "$1",
            "0x1",
            "1.0.0",
            "NaN",
            "１",
            "0.0000000001",
            "1000000000.000000001",
            "1000000001",
            "9223372036.854775808",
            "99999999999999999999999999999999999999999999",
        ] {
            assert_eq!(read(text), Err(NotAnAmount), "{text:?}");
        }
    }

    #[test]
    fn percentages_round_down_to_the_nano_dollar() {
        assert_eq!(percent_of(50_000_000_000, 110), 55_000_000_000);
        assert_eq!(percent_of(99, 1), 0);
        assert_eq!(percent_of(199, 50), 99);
        assert_eq!(percent_of(1, 199), 1);
        assert_eq!(percent_of(-1, 50), -1);
        assert_eq!(percent_of(7, 0), 0);
    }

    #[test]
    fn percentages_are_exact_up_to_the_largest_amount_and_saturate_beyond() {
        for amount in [0, 1, 99, 100, 101, MAX_AMOUNT - 1, MAX_AMOUNT, -1, -101, -MAX_AMOUNT] {
            for percent in [0, 1, 33, 99, 100, 101, 150, 900] {
                let exact = (i128::from(amount) * i128::from(percent)).div_euclid(100);
                assert_eq!(i128::from(percent_of(amount, percent)), exact);
            }
        }
        assert_eq!(percent_of(i64::MAX, u32::MAX), i64::MAX);
        assert_eq!(percent_of(i64::MIN, u32::MAX), i64::MIN);
        assert_eq!(percent_of(i64::MAX, 100), i64::MAX);
        assert_eq!(percent_of(i64::MIN, 100), i64::MIN);
    }
}
