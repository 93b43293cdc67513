//! The results as `JUnit` XML, which every CI shows: a suite for each policy.

use std::fmt::Write as _;
use std::time::Duration;

use super::report::Tested;
use crate::commands::shown;

pub(super) fn document(all: &[Tested]) -> String {
    let mut xml =
        String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"tollgate policy test\">\n");
    for tested in all {
        let name = escaped(&shown(&tested.component));
        let errors = usize::from(tested.error.is_some());
        let (tests, failures) = (tested.cases.len() + errors, tested.failed());
        let time = seconds(tested.cases.iter().map(|case| case.took).sum());
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{time}\">"
        );
        for case in &tested.cases {
            let (case_name, time) = (escaped(&case.name), seconds(case.took));
            let _ = write!(xml, "    <testcase classname=\"{name}\" name=\"{case_name}\" time=\"{time}\"");
            if case.passed() {
                xml.push_str("/>\n");
                continue;
            }
            let told = case.told();
            let first = told.first().map_or("", String::as_str);
            let (message, body) = (escaped(first), escaped(&told.join("\n")));
            let _ = writeln!(xml, ">\n      <failure message=\"{message}\">{body}</failure>\n    </testcase>");
        }
        if let Some(error) = &tested.error {
            let message = escaped(error);
            let _ = writeln!(
                xml,
                "    <testcase classname=\"{name}\" name=\"loads\"><error message=\"{message}\"/></testcase>"
            );
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn seconds(took: Duration) -> String {
    format!("{}.{:06}", took.as_secs(), took.subsec_micros())
}

/// As text and as an attribute. What XML 1.0 cannot say is replaced.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push('\t'),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
