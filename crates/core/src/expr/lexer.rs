//! From characters to tokens. An unreadable character becomes the last token, so that the parser reports what comes first.

use super::{ExpressionError, MAX_TOKENS};
use std::ops::Range;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    Close,
    /// A keyword, a function or a bare name.
    Word(String),
    /// A name in double quotes, without them.
    Quoted(String),
    End,
    Bad(ExpressionError),
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: Range<usize>,
}

/// All tokens; the last one is `End` or `Bad`.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut i = 0;
    let bad = |at: Range<usize>, message: String, hint: Option<&str>| Token {
        kind: Kind::Bad(ExpressionError::new(text, at.clone(), message, hint.map(str::to_owned))),
        at,
    };
    while let Some(c) = chars.get(i).copied() {
        if c.is_whitespace() {
            i += 1;
            continue;
        }
        if tokens.len() == MAX_TOKENS {
            let message = format!("the expression has more than {MAX_TOKENS} parts");
            tokens.push(bad(i..i + 1, message, Some("split it into several composite alarms")));
            return tokens;
        }
        let start = i;
        i += 1;
        let kind = match c {
            '(' => Kind::Open,
            ')' => Kind::Close,
            '"' => {
                while chars.get(i).is_some_and(|c| *c != '"' && *c != '\n') {
                    i += 1;
                }
                if chars.get(i) != Some(&'"') {
                    tokens.push(bad(
                        start..start + 1,
                        "this '\"' is not closed".into(),
                        Some("end the name with '\"'"),
                    ));
                    return tokens;
                }
                i += 1;
                Kind::Quoted(chars[start + 1..i - 1].iter().collect())
            }
            c if in_word(c) => {
                while chars.get(i).is_some_and(|c| in_word(*c)) {
                    i += 1;
                }
                Kind::Word(chars[start..i].iter().collect())
            }
            c => {
                while i < chars.len() && chars[i] == c {
                    i += 1;
                }
                tokens.push(bad(start..i, format!("unexpected character {c:?}"), instead_of(c)));
                return tokens;
            }
        };
        tokens.push(Token { kind, at: start..i });
    }
    tokens.push(Token { kind: Kind::End, at: chars.len()..chars.len() });
    tokens
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

fn instead_of(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("write AND"),
        '|' => Some("write OR"),
        '!' => Some("write NOT"),
        ',' | ';' => Some("write AND or OR between two conditions"),
        '\'' | '`' | '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}' | '«' | '»' => {
            Some("names stand in straight double quotes: \"name\"")
        }
        _ => None,
    }
}
