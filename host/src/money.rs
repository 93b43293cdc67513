//! Money: an exact, signed number of nano-dollars.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::decimal::Decimal;

/// An amount in nano-dollars (1e-9 USD). Amounts from outside are 0 to [`Money::MAX`];
/// differences, such as what remains of an overrun quota, may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i64);

/// Decimals of a nano-dollar.
const DECIMALS: u8 = 9;

/// Why a text is not an amount. The display completes the sentence "`estimatedCostUsd`: …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a decimal number, or one with a sign, spaces or an exponent where a string was given.
    #[error("a decimal amount such as \"0.05\", got {0:?}")]
    NotDecimal(String),
    /// A string with more than nine decimals.
    #[error("at most 9 decimals, got {0}")]
    TooPrecise(String),
    /// Below zero.
    #[error("0 or more, got {0}")]
    Negative(String),
    /// Above one billion dollars.
    #[error("at most 1000000000 (USD), got {0}")]
    TooLarge(String),
}

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One billion dollars, the largest amount that is accepted from outside.
    pub const MAX: Self = Self(1_000_000_000_000_000_000);

    /// From nano-dollars. Values inside the gate are trusted; those from outside are parsed.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The amount in nano-dollars.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Reads a strict decimal: digits, optionally a point and one to nine decimals.
    ///
    /// # Errors
    /// The text is not of that form or the amount is above [`Money::MAX`].
    pub fn parse(text: &str) -> Result<Self, MoneyError> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if let Some(unsigned) = text.strip_prefix('-')
            && digits(&unsigned.replacen('.', "", 1))
        {
            return Err(MoneyError::Negative(text.to_owned()));
        }
        if !digits(whole) || !digits(decimals) {
            return Err(MoneyError::NotDecimal(shorten(text)));
        }
        if decimals.len() > usize::from(DECIMALS) {
            return Err(MoneyError::TooPrecise(shorten(text)));
        }
        Self::from_decimal(whole, decimals, 0).ok_or_else(|| MoneyError::TooLarge(shorten(text)))
    }

    /// Reads a JSON number, which is whatever another language's float printed: any number of
    /// decimals, an exponent. What lies between two nano-dollars is rounded up.
    ///
    /// # Errors
    /// The number is negative or above [`Money::MAX`], or the text is no JSON number.
    pub fn parse_json_number(text: &str) -> Result<Self, MoneyError> {
        let not_decimal = || MoneyError::NotDecimal(shorten(text));
        let (negative, unsigned) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            None => (unsigned, 0),
            // An exponent beyond i32 is as good as infinite in its direction.
            Some((mantissa, exponent)) => match exponent.parse::<i32>() {
                Ok(exponent) => (mantissa, exponent),
                Err(_) if exponent.starts_with('-') => (mantissa, i32::MIN),
                Err(_) => (mantissa, i32::MAX),
            },
        };
        let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() || !whole.bytes().chain(decimals.bytes()).all(|b| b.is_ascii_digit()) {
            return Err(not_decimal());
        }
        let amount =
            Self::from_decimal(whole, decimals, exponent).ok_or_else(|| MoneyError::TooLarge(shorten(text)))?;
        if negative && amount != Self::ZERO {
            return Err(MoneyError::Negative(shorten(text)));
        }
        Ok(amount)
    }

    /// `whole.decimals × 10^exponent` in nano-dollars, rounded up; `None` above [`Money::MAX`].
    fn from_decimal(whole: &str, decimals: &str, exponent: i32) -> Option<Self> {
        let digits = whole.bytes().chain(decimals.bytes());
        // The position of the nano-dollar, counted from the first digit.
        let unit = i64::try_from(whole.len()).ok()? + i64::from(exponent) + i64::from(DECIMALS);
        let mut nanos: i64 = 0;
        let mut round_up = false;
        let mut seen = 0_i64;
        for digit in digits.map(|b| i64::from(b - b'0')) {
            if seen < unit {
                nanos = nanos.checked_mul(10)?.checked_add(digit)?;
            } else {
                round_up |= digit != 0;
            }
            seen += 1;
        }
        if nanos != 0 {
            // Digits that were not written: 3e5 has one of its six.
            for _ in seen..unit {
                nanos = nanos.checked_mul(10)?;
            }
        }
        let amount = Self(nanos.checked_add(i64::from(round_up))?);
        (amount <= Self::MAX).then_some(amount)
    }

    /// As a plain decimal with at least two decimals, and as many as the amount needs: `50.00`, `0.0000001`.
    pub fn to_decimal(self) -> String {
        Decimal::of(self.0, usize::from(DECIMALS), 2).as_str().to_owned()
    }
}

/// What an error message may quote of a caller's text.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 40;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain("…".chars()).collect()
}

impl std::ops::Add for Money {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::ops::Sub for Money {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// `$50.00`, as in messages.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimal = Decimal::of(self.0, usize::from(DECIMALS), 2);
        let decimal = decimal.as_str();
        match decimal.strip_prefix('-') {
            Some(magnitude) => write!(f, "-${magnitude}"),
            None => write!(f, "${decimal}"),
        }
    }
}

/// A JSON number with the exact decimals, never by way of a float.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Decimal::of(self.0, usize::from(DECIMALS), 2).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_strict() {
        for (text, nanos) in
            [("0", 0), ("2.00", 2_000_000_000), ("0.000000001", 1), ("1000000000", 1_000_000_000_000_000_000)]
        {
            assert_eq!(Money::parse(text), Ok(Money::from_nanos(nanos)), "{text}");
        }
        for text in ["", ".", "1.", ".5", "+1", " 1", "1e3", "NaN", "0x1", "1,5", "١"] {
            assert!(matches!(Money::parse(text), Err(MoneyError::NotDecimal(_))), "{text}");
        }
        assert_eq!(Money::parse("0.1234567891"), Err(MoneyError::TooPrecise("0.1234567891".into())));
        assert_eq!(Money::parse("-1"), Err(MoneyError::Negative("-1".into())));
        assert_eq!(Money::parse("1000000000.000000001"), Err(MoneyError::TooLarge("1000000000.000000001".into())));
        assert!(matches!(Money::parse(&"9".repeat(500)), Err(MoneyError::TooLarge(_))));
    }

    #[test]
    fn json_numbers_are_rounded_up_to_the_nano_dollar() {
        for (text, nanos) in [
            ("0.30000000000000004", 300_000_001),
            ("3e-7", 300),
            ("1E2", 100_000_000_000),
            ("1.5e+1", 15_000_000_000),
            ("1e-300", 1),
            ("0e999999999999", 0),
            ("1e-999999999999", 1),
            ("-0.0", 0),
            ("0.000000001", 1),
            ("1e9", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(Money::parse_json_number(text), Ok(Money::from_nanos(nanos)), "{text}");
        }
        assert!(matches!(Money::parse_json_number("1.0000000000000001e9"), Err(MoneyError::TooLarge(_))));
        assert!(matches!(Money::parse_json_number("1e99999999999"), Err(MoneyError::TooLarge(_))));
        assert!(matches!(Money::parse_json_number("-1e-300"), Err(MoneyError::Negative(_))));
    }

    #[test]
    fn amounts_show_cents_or_as_many_decimals_as_they_need() {
        for (nanos, text) in [
            (50_000_000_000, "$50.00"),
            (1_500_000_000, "$1.50"),
            (5_000_000, "$0.005"),
            (100, "$0.0000001"),
            (-1_000_000_000, "-$1.00"),
            (0, "$0.00"),
            (i64::MIN, "-$9223372036.854775808"),
        ] {
            assert_eq!(Money::from_nanos(nanos).to_string(), text);
        }
        assert_eq!(serde_json::to_string(&Money::from_nanos(50_000_000_000)).ok(), Some("50.00".into()));
    }
}
