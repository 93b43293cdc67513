//! Reading what comes from outside. Every fault names its field and what would be right.

use std::fmt;
use std::time::Duration;

use axum::body::{Bytes, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::Uri;
use axum::http::request::Parts;
use chrono::{DateTime, TimeDelta, Utc};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::ApiError;
use crate::money::Money;
use crate::quota::MOST_THRESHOLDS;

/// The longest id of a caller's, in characters.
const LONGEST_ID: usize = 128;
const LARGEST_BODY: usize = 64 << 10;
/// For so little it is long.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// What was sent, within its limit.
pub struct Body(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let body = request.into_body();
        if body.size_hint().lower() > LARGEST_BODY as u64 {
            return Err(ApiError::too_large());
        }
        let read = Limited::new(body, LARGEST_BODY).collect();
        let late = |_| ApiError::invalid_request(format!("the body did not come whole within {BODY_WITHIN:?}"));
        match tokio::time::timeout(BODY_WITHIN, read).await.map_err(late)? {
            Ok(read) => Ok(Self(read.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large()),
            Err(error) => Err(ApiError::invalid_request(format!("the body did not come whole: {error}"))),
        }
    }
}

/// A JSON object whose fields are taken one by one; what is left at the end is unknown.
pub struct Fields<'a> {
    left: Vec<(String, &'a RawValue)>,
    known: Vec<&'static str>,
}

/// The fields of an object in their order, each value as its text.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut entries = Vec::with_capacity(8);
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl<'a> Fields<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// It is no JSON object, or names a field twice.
    pub fn parse(body: &'a [u8]) -> Result<Self, ApiError> {
        let Object(left) = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid_request(format!("the body must be a JSON object: {error}")))?;
        if let Some((name, _)) = left
            .iter()
            .enumerate()
            .find(|(n, (name, _))| left[..*n].iter().any(|(other, _)| other == name))
            .map(|(_, entry)| entry)
        {
            return Err(ApiError::invalid(name, "given twice"));
        }
        Ok(Self { left, known: Vec::with_capacity(8) })
    }

    /// The value's text; `null` counts as left out.
    fn take(&mut self, name: &'static str) -> Option<&'a str> {
        self.known.push(name);
        let index = self.left.iter().position(|(field, _)| field == name)?;
        let (_, value) = self.left.swap_remove(index);
        (value.get() != "null").then(|| value.get())
    }

    /// A text that `parse` accepts.
    ///
    /// # Errors
    /// It is no text, or `parse` says what would be right.
    pub fn text<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        // Most texts have no escapes, and are read where they stand.
        let parsed = match serde_json::from_str::<&str>(value) {
            Ok(text) => parse(text),
            Err(_) => match serde_json::from_str::<String>(value) {
                Ok(text) => parse(&text),
                Err(_) => return Err(ApiError::invalid(name, format!("a text, got {}", kind(value)))),
            },
        };
        parsed.map(Some).map_err(|fault| ApiError::invalid(name, fault))
    }

    /// As [`text`](Self::text), and required.
    ///
    /// # Errors
    /// It is missing, too.
    pub fn required_text<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ApiError> {
        self.text(name, parse)?.ok_or_else(|| ApiError::invalid(name, "required"))
    }

    /// An id of the caller's: 1 to 128 characters.
    ///
    /// # Errors
    /// It is no such text.
    pub fn id(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        self.text(name, |text| match text.chars().count() {
            1..=LONGEST_ID if !text.chars().any(char::is_control) => Ok(text.to_owned()),
            length => Err(format!("1 to {LONGEST_ID} characters, no control characters, got {length} characters")),
        })
    }

    /// An amount: a strict decimal text, or a number as other languages' floats print it.
    ///
    /// # Errors
    /// It is neither, negative, or above one billion dollars.
    pub fn money(&mut self, name: &'static str) -> Result<Option<Money>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let amount = match value.as_bytes().first() {
            Some(b'"') => {
                let text: String = serde_json::from_str(value).map_err(|error| ApiError::invalid(name, error))?;
                Money::parse(&text)
            }
            Some(b'-' | b'0'..=b'9') => Money::parse_json_number(value),
            _ => {
                return Err(ApiError::invalid(
                    name,
                    format!("an amount, as a number or a text such as \"0.05\", got {}", kind(value)),
                ));
            }
        };
        amount.map(Some).map_err(|fault| ApiError::invalid(name, fault))
    }

    /// An amount above zero, such as a limit.
    ///
    /// # Errors
    /// It is no amount, or zero.
    pub fn limit(&mut self, name: &'static str) -> Result<Option<Money>, ApiError> {
        match self.money(name)? {
            Some(Money::ZERO) => {
                Err(ApiError::invalid(name, "above 0; a quota that allows nothing has a limit of 0.000000001"))
            }
            amount => Ok(amount),
        }
    }

    /// `true` or `false`, default `false`.
    ///
    /// # Errors
    /// It is neither.
    pub fn flag(&mut self, name: &'static str) -> Result<bool, ApiError> {
        match self.take(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(value) => Err(ApiError::invalid(name, format!("true or false, got {}", kind(value)))),
        }
    }

    /// A whole number of seconds, 1 to 86400.
    ///
    /// # Errors
    /// It is none.
    pub fn seconds(&mut self, name: &'static str) -> Result<Option<TimeDelta>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.parse::<i64>() {
            Ok(seconds @ 1..=86_400) => Ok(Some(TimeDelta::seconds(seconds))),
            _ => Err(ApiError::invalid(name, format!("whole seconds, 1 to 86400, got {}", kind(value)))),
        }
    }

    /// An instant with its offset from UTC.
    ///
    /// # Errors
    /// It is none.
    pub fn instant(&mut self, name: &'static str) -> Result<Option<DateTime<Utc>>, ApiError> {
        self.text(name, instant)
    }

    /// Up to 32 pairs of texts, by name.
    ///
    /// # Errors
    /// It is no object, has too many pairs, or one that is no text.
    pub fn pairs(&mut self, name: &'static str) -> Result<Vec<(String, String)>, ApiError> {
        const MOST: usize = 32;
        let Some(value) = self.take(name) else { return Ok(Vec::new()) };
        let Object(entries) = serde_json::from_str(value)
            .map_err(|_| ApiError::invalid(name, format!("an object of texts, got {}", kind(value))))?;
        if entries.len() > MOST {
            return Err(ApiError::invalid(name, format!("at most {MOST} pairs, got {}", entries.len())));
        }
        let mut pairs = entries
            .into_iter()
            .map(|(key, value)| match serde_json::from_str::<String>(value.get()) {
                // PostgreSQL has no text with a NUL in it.
                Ok(text) if key.contains('\0') || text.contains('\0') => {
                    Err(ApiError::invalid(name, "no NUL characters"))
                }
                Ok(text) => Ok((key, text)),
                Err(_) => {
                    Err(ApiError::invalid(&format!("{name}.{key}"), format!("a text, got {}", kind(value.get()))))
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        pairs.sort();
        match pairs.windows(2).find(|two| two[0].0 == two[1].0) {
            Some(two) => Err(ApiError::invalid(&format!("{name}.{}", two[0].0), "given twice")),
            None => Ok(pairs),
        }
    }

    /// Percents, 1 to 1000, ascending.
    ///
    /// # Errors
    /// It is no list of such numbers.
    pub fn thresholds(&mut self, name: &'static str) -> Result<Option<Vec<i16>>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let fault = || {
            ApiError::invalid(
                name,
                format!(
                    "a list of up to {MOST_THRESHOLDS} whole percents, 1 to 1000, such as [80, 90, 100], got {}",
                    shorten(value)
                ),
            )
        };
        let mut percents: Vec<i16> = serde_json::from_str(value).map_err(|_| fault())?;
        if percents.len() > MOST_THRESHOLDS || percents.iter().any(|percent| !(1..=1000).contains(percent)) {
            return Err(fault());
        }
        percents.sort_unstable();
        percents.dedup();
        Ok(Some(percents))
    }

    /// Nothing more is expected.
    ///
    /// # Errors
    /// A field that the route does not know is left.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.left.first() {
            None => Ok(()),
            Some((name, _)) => {
                let hint = crate::nearest::hint(name, self.known.iter().copied());
                Err(ApiError::invalid(name, format!("unknown field{hint}")))
            }
        }
    }
}

/// The variable parts of a path, percent-decoded.
pub struct Part<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Part<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(path)| Self(path)).map_err(|rejection| ApiError::invalid("path", rejection.body_text()))
    }
}

/// An instant with its offset from UTC.
///
/// # Errors
/// A sentence that says what would be right.
pub fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|at| at.to_utc())
        .map_err(|_| format!("an instant such as 2026-01-04T12:00:00Z, got {:?}", shorten(text)))
}

/// How many rows a listing answers: 1 to 1000, and 100 where nothing is said.
///
/// # Errors
/// It is no such number.
pub fn limit(given: Option<String>) -> Result<i64, ApiError> {
    let Some(text) = given else { return Ok(100) };
    let limit = text.parse().ok().filter(|limit| (1..=1000).contains(limit));
    limit.ok_or_else(|| ApiError::invalid("limit", format!("1 to 1000, got {:?}", shorten(&text))))
}

/// The query of a path, as it is written.
///
/// # Errors
/// It is no query.
pub fn pairs(path: &Uri) -> Result<Vec<(String, String)>, ApiError> {
    let query = Query::try_from_uri(path);
    query.map(|Query(pairs)| pairs).map_err(|rejection| ApiError::invalid_request(rejection.body_text()))
}

/// The parameters of a query, each known and given once.
///
/// # Errors
/// A parameter is unknown or given twice.
pub fn query<const N: usize>(
    pairs: Vec<(String, String)>,
    known: [&'static str; N],
) -> Result<[Option<String>; N], ApiError> {
    let mut values = [const { None }; N];
    for (name, value) in pairs {
        let Some(index) = known.iter().position(|known| *known == name) else {
            let hint = crate::nearest::hint(&name, known.iter().copied());
            return Err(ApiError::invalid(&name, format!("unknown parameter{hint}")));
        };
        // No text in the store has it, and the store takes none that does.
        if value.contains('\0') {
            return Err(ApiError::invalid(&name, "no control characters"));
        }
        if values[index].replace(value).is_some() {
            return Err(ApiError::invalid(&name, "given twice"));
        }
    }
    Ok(values)
}

/// What a JSON value is, for an error: never the whole of it.
fn kind(value: &str) -> String {
    match value.as_bytes().first() {
        Some(b'"') => "a text".to_owned(),
        Some(b'{') => "an object".to_owned(),
        Some(b'[') => "a list".to_owned(),
        _ => shorten(value),
    }
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 40;
    if text.chars().count() <= LONGEST {
        text.to_owned()
    } else {
        text.chars().take(LONGEST).chain("…".chars()).collect()
    }
}
