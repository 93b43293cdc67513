//! "Did you mean": the known name that a mistyped one is closest to.

/// `, did you mean "listen"?`, or nothing where no known name is close.
pub fn hint<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    const CLOSE: usize = 3;
    known
        .map(|name| (strsim::damerau_levenshtein(unknown, name), name))
        .filter(|&(distance, name)| distance <= CLOSE.min(name.chars().count().div_ceil(2)))
        .min()
        .map_or_else(String::new, |(_, name)| format!(", did you mean {name:?}?"))
}
