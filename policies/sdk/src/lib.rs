//! Write a Tollgate policy in a few lines of ordinary Rust.
//!
//! A policy is a pure function from the facts of one request to a verdict: no clock, no network, no memory of
//! earlier calls. It is a type whose fields are its settings; the type is made from the operator's settings and
//! then asked to decide.
//!
//! ```
//! use tollgate_sdk::{Description, Facts, Policy, Settings, Verdict, exceeded, percent_of};
//!
//! /// Keeps a reserve: lets a request through that fits into what is left of every limit without it.
//! struct Careful {
//!     reserve_percent: u32,
//! }
//!
//! impl Policy for Careful {
//!     fn describe() -> Description {
//!         Description::new("careful", "0.1.0", "Keeps a share of every limit unspent.").setting(
//!             "reserve_percent",
//!             "5",
//!             "Share of each limit that stays unspent, in percent from 0 to 100.",
//!         )
//!     }
//!
//!     fn configure(settings: &mut Settings) -> Self {
//!         Self { reserve_percent: settings.percent("reserve_percent", 0..=100) }
//!     }
//!
//!     fn decide(&self, facts: &Facts) -> Result<Verdict, String> {
//!         let exceeded = exceeded(facts, |quota| percent_of(quota.limit, 100 - self.reserve_percent));
//!         Ok(Verdict::unless_exceeded(&facts.request, &exceeded))
//!     }
//! }
//!
//! tollgate_sdk::export!(Careful);
//! ```
//!
//! Money is an integer number of nano-dollars, from 0 to 10^18; see [`Usd`] for reading and writing it. Nothing in
//! this crate overflows or panics on any `i64`.

#[cfg(any(target_arch = "wasm32", test))]
mod bump;
mod money;
mod quota;
mod settings;
mod verdict;

pub use bindings::exports::tollgate::policy::decider::{
    Allowance, Denial, Description, Facts, Instant, NanoUsd, Pair, Quota, Request, SettingSpec, Verdict,
};
pub use money::{MAX_AMOUNT, Usd, percent_of};
pub use quota::{Exceeded, binding, exceeded};
pub use settings::Settings;

/// What wit-bindgen makes of `wit/policy.wit`; policies use the names that this crate re-exports.
#[doc(hidden)]
#[allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated, and unsafe is what the canonical ABI is made of"
)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "policy",
        additional_derives: [PartialEq, Eq],
        pub_export_macro: true,
        export_macro_name: "export_component",
    });
}

/// A spending policy: its fields are its settings.
pub trait Policy: Sized {
    /// What the policy says of itself; its settings and their defaults.
    fn describe() -> Description;

    /// Reads the operator's settings. What is wrong with them is noted in `settings`, all of it, and the policy
    /// made from them is then never asked.
    fn configure(settings: &mut Settings) -> Self;

    /// The verdict on one request.
    ///
    /// # Errors
    ///
    /// A sentence that says why the policy could not decide; the host's `on_error` applies. A refusal is a verdict.
    fn decide(&self, facts: &Facts) -> Result<Verdict, String>;
}

/// Makes a type that implements [`Policy`] what this component exports. Once per crate, of type `cdylib`.
///
/// On another target than wasm it only checks that the type is a policy, so that the crate's tests build.
#[macro_export]
macro_rules! export {
    ($policy:ident) => {
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::export_component!($policy with_types_in $crate::bindings);

        const _: fn() -> $crate::Description = <$policy as $crate::Policy>::describe;
    };
}

/// The same reading of the settings serves validation and decision, so the two cannot disagree.
impl<P: Policy> bindings::exports::tollgate::policy::decider::Guest for P {
    fn describe() -> Description {
        <P as Policy>::describe()
    }

    fn validate_settings(settings: Vec<Pair>) -> Result<(), Vec<String>> {
        Settings::new(&settings).read::<P>().map(drop)
    }

    fn decide(facts: Facts) -> Result<Verdict, String> {
        let policy: P = Settings::new(&facts.settings).read().map_err(|faults| faults.join(" "))?;
        Policy::decide(&policy, &facts)
    }
}

impl Request {
    /// The value of one of the caller's attributes.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        find(&self.attributes, name)
    }
}

/// The value of a name in a list of pairs, in which names are unique.
pub(crate) fn find<'a>(pairs: &'a [Pair], name: &str) -> Option<&'a str> {
    pairs.iter().find(|pair| pair.name == name).map(|pair| pair.value.as_str())
}

#[cfg(test)]
mod tests {
    use super::bindings::exports::tollgate::policy::decider::Guest;
    use super::quota::tests::facts;
    use super::*;

    struct Picky {
        share: u32,
    }

    impl Policy for Picky {
        fn describe() -> Description {
            Description::new("picky", "1.0.0", "Lets a share through.").required("share", "In percent.").setting(
                "max_usd",
                "1.00",
                "In US dollars.",
            )
        }

        fn configure(settings: &mut Settings) -> Self {
            settings.money("max_usd");
            Self { share: settings.percent("share", 0..=100) }
        }

        fn decide(&self, _: &Facts) -> Result<Verdict, String> {
            Ok(Verdict::refuse("share", self.share.to_string()))
        }
    }

    fn given(max: &str, share: &str) -> Vec<Pair> {
        let pair = |name: &str, value: &str| Pair { name: name.to_owned(), value: value.to_owned() };
        vec![pair("max_usd", max), pair("share", share)]
    }

    #[test]
    fn the_policy_decides_with_the_settings_of_its_facts() {
        let facts = Facts { settings: given("1.00", "7"), ..facts(0, &[]) };
        assert_eq!(<Picky as Guest>::decide(facts), Ok(Verdict::refuse("share", "7")));
    }

    #[test]
    fn validation_lists_every_fault_and_a_decision_fails_with_them() {
        assert_eq!(Picky::validate_settings(given("1.00", "7")), Ok(()));

        let faults = Picky::validate_settings(given("a dollar", "seven")).expect_err("two faults");
        assert_eq!(faults.len(), 2, "{faults:?}");

        let facts = Facts { settings: given("a dollar", "seven"), ..facts(0, &[]) };
        assert_eq!(<Picky as Guest>::decide(facts), Err(faults.join(" ")));
    }

    #[test]
    fn an_attribute_is_found_by_its_exact_name() {
        let mut request = facts(0, &[]).request;
        request.attributes.push(Pair { name: "priority".to_owned(), value: "high".to_owned() });
        assert_eq!(request.attribute("priority"), Some("high"));
        assert_eq!(request.attribute("Priority"), None);
    }
}
