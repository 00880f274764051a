//! Errors in words: a message without its causes tells a user what failed and not why.

use std::error::Error;

/// An error and everything beneath it in one line, the outermost first; what a text says already is not said twice.
#[must_use]
pub fn causes(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        source = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("failed to read {0}")]
        Read(&'static str, #[source] Box<Failure>),
        #[error(transparent)]
        Same(Box<Failure>),
        #[error("it is gone")]
        Gone,
    }

    #[test]
    fn every_cause_is_told_once() {
        let gone = Failure::Same(Box::new(Failure::Gone));
        assert_eq!(causes(&Failure::Read("x", Box::new(gone))), "failed to read x: it is gone");
    }
}
