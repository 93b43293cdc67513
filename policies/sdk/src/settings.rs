//! The operator's settings, read as what they mean.

use std::ops::RangeInclusive;

use crate::{MAX_AMOUNT, NanoUsd, Pair, Policy, Usd, find};

/// The settings of a policy, each with the operator's value or the default.
///
/// A getter that cannot read its value notes a sentence about it and returns the type's zero, so that one pass over
/// the settings finds everything that is wrong. That zero decides nothing: a policy with such a note is never asked.
#[derive(Debug)]
pub struct Settings<'a> {
    pairs: &'a [Pair],
    faults: Vec<String>,
}

impl<'a> Settings<'a> {
    pub(crate) fn new(pairs: &'a [Pair]) -> Self {
        Self { pairs, faults: Vec::new() }
    }

    pub(crate) fn read<P: Policy>(mut self) -> Result<P, Vec<String>> {
        let policy = P::configure(&mut self);
        if self.faults.is_empty() { Ok(policy) } else { Err(self.faults) }
    }

    /// A whole percentage within `range`, written without a sign and without `%`.
    pub fn percent(&mut self, name: &str, range: RangeInclusive<u32>) -> u32 {
        self.parse(
            name,
            |text| digits(text).filter(|percent| range.contains(percent)),
            || {
                let (from, to) = (range.start(), range.end());
                format!("a whole percentage from {from} to {to}, without a sign or \"%\"")
            },
        )
    }

    /// US dollars, in nano-dollars; see [`Usd`] for how they are written.
    pub fn money(&mut self, name: &str) -> NanoUsd {
        self.parse(
            name,
            |text| text.parse().ok().map(|Usd(amount)| amount),
            || format!("US dollars from 0 to {} with at most 9 decimals, such as \"1.00\"", MAX_AMOUNT / 1_000_000_000),
        )
    }

    /// A whole number from 0, written without a sign.
    pub fn count(&mut self, name: &str) -> u64 {
        self.parse(name, digits, || "a whole number from 0, such as \"100\"".to_owned())
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &str) -> bool {
        self.parse(name, |text| text.parse().ok(), || "\"true\" or \"false\"".to_owned())
    }

    /// The text as it stands.
    pub fn text(&mut self, name: &str) -> &'a str {
        find(self.pairs, name).unwrap_or_else(|| {
            self.refuse(format!("{name} is not set."));
            ""
        })
    }

    /// Notes a sentence about settings that can be read but make no sense, alone or together.
    pub fn refuse(&mut self, sentence: impl Into<String>) {
        self.faults.push(sentence.into());
    }

    fn parse<T: Default>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        right: impl FnOnce() -> String,
    ) -> T {
        let fault = match find(self.pairs, name) {
            Some(text) => match parse(text) {
                Some(value) => return value,
                None => format!("{name} must be {}; it is \"{text}\".", right()),
            },
            None => format!("{name} is not set; it must be {}.", right()),
        };
        self.refuse(fault);
        T::default()
    }
}

/// Digits only: the standard parser would also take a plus sign.
fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(given: &[(&str, &str)]) -> Vec<Pair> {
        given.iter().map(|&(name, value)| Pair { name: name.to_owned(), value: value.to_owned() }).collect()
    }

    #[test]
    fn each_kind_is_read_as_what_it_means() {
        let given = pairs(&[("share", "15"), ("max", "0.25"), ("free", "100"), ("on", "true"), ("who", "ops team")]);
        let mut settings = Settings::new(&given);
        assert_eq!(settings.percent("share", 0..=100), 15);
        assert_eq!(settings.money("max"), 250_000_000);
        assert_eq!(settings.count("free"), 100);
        assert!(settings.flag("on"));
        assert_eq!(settings.text("who"), "ops team");
        assert!(settings.faults.is_empty(), "{:?}", settings.faults);
    }

    #[test]
    fn every_fault_is_noted_with_the_name_what_is_right_and_what_was_given() {
        let given = pairs(&[("share", "101"), ("max", "1,00"), ("free", "+1"), ("on", "yes")]);
        let mut settings = Settings::new(&given);
        settings.percent("share", 0..=100);
        settings.money("max");
        settings.count("free");
        settings.flag("on");
        settings.percent("gone", 0..=1000);
        settings.refuse("max is below what free costs.");
        assert_eq!(
            settings.faults,
            [
                r#"share must be a whole percentage from 0 to 100, without a sign or "%"; it is "101"."#,
                r#"max must be US dollars from 0 to 1000000000 with at most 9 decimals, such as "1.00"; it is "1,00"."#,
                r#"free must be a whole number from 0, such as "100"; it is "+1"."#,
                r#"on must be "true" or "false"; it is "yes"."#,
                r#"gone is not set; it must be a whole percentage from 0 to 1000, without a sign or "%"."#,
                "max is below what free costs.",
            ]
        );
    }

    #[test]
    fn percentages_and_counts_take_digits_only() {
        for text in ["", "-1", "+1", "1.5", "10%", " 10", "ten", "99999999999999999999999"] {
            let given = pairs(&[("it", text)]);
            let mut settings = Settings::new(&given);
            settings.percent("it", 0..=1000);
            settings.count("it");
            assert_eq!(settings.faults.len(), 2, "{text:?}");
        }
    }
}
