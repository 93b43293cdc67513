//! Why something failed, down to the first cause.

use std::error::Error;

/// The error's sentence and those of its causes, outermost first. Some libraries repeat a cause in their own sentence: then it
/// is not told again.
pub fn of(error: &dyn Error) -> Vec<String> {
    let mut sentences = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let sentence = deeper.to_string();
        if !sentences.iter().any(|said| said.contains(&sentence)) {
            sentences.push(sentence);
        }
        cause = deeper.source();
    }
    sentences
}

/// All of it on one line, for a log.
pub fn chain(error: &dyn Error) -> String {
    of(error).join(": ")
}
