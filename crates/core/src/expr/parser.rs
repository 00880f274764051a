//! A Pratt parser: NOT binds tighter than AND, AND tighter than OR. Its recursion is bounded by [`MAX_DEPTH`].

use super::lexer::{Kind, Token, tokens};
use super::suggest::nearest;
use super::{ExpressionError, MAX_CHARS, MAX_DEPTH, Node};
use crate::alarm::{AlarmName, AlarmState};
use std::ops::Range;

const FUNCTIONS: [(&str, AlarmState); 3] = [
    ("ALARM", AlarmState::Alarm),
    ("OK", AlarmState::Ok),
    ("INSUFFICIENT_DATA", AlarmState::InsufficientData),
];
const KEYWORDS: [&str; 8] = ["ALARM", "OK", "INSUFFICIENT_DATA", "AND", "OR", "NOT", "TRUE", "FALSE"];

/// How tightly an infix operator binds.
fn infix(word: &str) -> Option<u8> {
    match word {
        "OR" => Some(1),
        "AND" => Some(2),
        _ => None,
    }
}

/// The tree, and each alarm's name with the place where it stands.
pub(super) type Parsed = (Node, Vec<(AlarmName, Range<usize>)>);

pub(super) fn parse(text: &str) -> Result<Parsed, ExpressionError> {
    if text.chars().nth(MAX_CHARS).is_some() {
        let kept: String = text.chars().take(MAX_CHARS).collect();
        let message = format!("the expression is longer than {MAX_CHARS} characters");
        return Err(ExpressionError::new(&kept, MAX_CHARS..MAX_CHARS, message, None));
    }
    let mut parser = Parser { text, tokens: tokens(text), next: 0, leaves: Vec::new() };
    if parser.peek().kind == Kind::End {
        let hint = "write a condition such as ALARM(\"name\")";
        return Err(parser.fail(0..0, "the expression is empty", Some(hint)));
    }
    let root = parser.expression(0, 0)?;
    match parser.peek().kind {
        Kind::End => Ok((root, parser.leaves)),
        _ => Err(parser.trailing()),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    next: usize,
    leaves: Vec<(AlarmName, Range<usize>)>,
}

impl Parser<'_> {
    /// The next token; the last one (`End` or `Bad`) is never passed.
    fn peek(&self) -> &Token {
        &self.tokens[self.next]
    }

    fn take(&mut self) -> Token {
        let token = self.tokens[self.next].clone();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn fail(&self, at: Range<usize>, message: impl Into<String>, hint: Option<&str>) -> ExpressionError {
        ExpressionError::new(self.text, at, message, hint.map(str::to_owned))
    }

    fn expression(&mut self, tighter_than: u8, depth: usize) -> Result<Node, ExpressionError> {
        let mut left = self.prefix(depth)?;
        while let Kind::Word(word) = &self.peek().kind {
            let Some(binds) = infix(word).filter(|binds| *binds > tighter_than) else { break };
            self.next += 1;
            let right = self.expression(binds, depth)?;
            left = if binds == 2 { Node::and(left, right) } else { Node::or(left, right) };
        }
        Ok(left)
    }

    fn prefix(&mut self, depth: usize) -> Result<Node, ExpressionError> {
        let token = self.take();
        if depth > MAX_DEPTH {
            let message = format!("the expression is nested more than {MAX_DEPTH} deep");
            return Err(self.fail(token.at, message, None));
        }
        match &token.kind {
            Kind::Open => self.group(token.at, depth),
            Kind::Word(word) => match word.as_str() {
                "NOT" => Ok(Node::Not(Box::new(self.prefix(depth + 1)?))),
                "TRUE" => Ok(Node::Constant(true)),
                "FALSE" => Ok(Node::Constant(false)),
                _ => match FUNCTIONS.iter().find(|(name, _)| name == word) {
                    Some((name, state)) => self.leaf(name, *state, token.at),
                    None => Err(self.no_condition(&token)),
                },
            },
            _ => Err(self.no_condition(&token)),
        }
    }

    fn group(&mut self, open: Range<usize>, depth: usize) -> Result<Node, ExpressionError> {
        if self.peek().kind == Kind::Close {
            let at = open.start..self.peek().at.end;
            return Err(self.fail(at, "nothing stands between these parentheses", None));
        }
        let inner = self.expression(0, depth + 1)?;
        match self.peek().kind {
            Kind::Close => {
                self.next += 1;
                Ok(inner)
            }
            Kind::End => Err(self.fail(open, "this '(' is not closed", Some("add ')' where the group ends"))),
            _ => Err(self.trailing()),
        }
    }

    /// A function's name in its parentheses.
    fn leaf(&mut self, function: &str, state: AlarmState, at: Range<usize>) -> Result<Node, ExpressionError> {
        let form = format!("write {function}(\"name\")");
        let open = self.peek().clone();
        if open.kind != Kind::Open {
            return match open.kind {
                Kind::Bad(error) => Err(error),
                _ => Err(self.fail(
                    at,
                    format!("{function} needs an alarm's name in parentheses"),
                    Some(&form),
                )),
            };
        }
        self.next += 1;
        let name = self.take();
        let (text, inside) = match &name.kind {
            Kind::Word(text) => (text, name.at.clone()),
            Kind::Quoted(text) => (text, name.at.start + 1..name.at.end - 1),
            Kind::Bad(error) => return Err(error.clone()),
            Kind::End => return Err(self.fail(open.at, "this '(' is not closed", Some(&form))),
            Kind::Open | Kind::Close => {
                return Err(self.fail(name.at, "an alarm's name is expected here", Some(&form)));
            }
        };
        let parsed = AlarmName::new(text.as_str())
            .map_err(|e| self.fail(inside.clone(), format!("this is no alarm's name: {}", e.why), None))?;
        let close = self.peek().clone();
        match close.kind {
            Kind::Close => self.next += 1,
            Kind::Bad(error) => return Err(error),
            Kind::End => {
                return Err(self.fail(open.at, "this '(' is not closed", Some("add ')' after the name")));
            }
            _ => {
                let hint = format!("one function takes one name: {function}({parsed})");
                return Err(self.fail(close.at, "')' is expected after the alarm's name", Some(&hint)));
            }
        }
        self.leaves.push((parsed.clone(), inside));
        Ok(Node::Is(state, parsed))
    }

    /// A token stands where a condition should.
    fn no_condition(&self, token: &Token) -> ExpressionError {
        // The last token is never passed, so it is still the next one.
        let index = if self.next + 1 == self.tokens.len() && token.at == self.peek().at {
            self.next
        } else {
            self.next - 1
        };
        let previous = index.checked_sub(1).map(|i| &self.tokens[i]);
        let before = previous.and_then(|token| match &token.kind {
            Kind::Word(word) => Some(word.as_str()),
            _ => None,
        });
        let expected = match before {
            Some(word) if token.kind == Kind::End || token.kind == Kind::Close => {
                format!("a condition is expected after {word}")
            }
            _ => "a condition is expected here".to_owned(),
        };
        let example = "write a condition such as ALARM(\"name\")";
        match &token.kind {
            Kind::Bad(error) => error.clone(),
            Kind::Word(word) if infix(word).is_some() => {
                self.fail(token.at.clone(), format!("a condition is expected before {word}"), Some(example))
            }
            Kind::Word(word) => self.unknown_word(word, token.at.clone()),
            Kind::Quoted(name) => {
                let hint =
                    format!("write ALARM(\"{name}\"), OK(\"{name}\") or INSUFFICIENT_DATA(\"{name}\")");
                self.fail(token.at.clone(), "a name alone is no condition", Some(&hint))
            }
            Kind::Close if before.is_none() => self.fail(token.at.clone(), "this ')' closes nothing", None),
            Kind::End if before.is_none() => {
                let open = previous.map_or(token.at.clone(), |open| open.at.clone());
                self.fail(open, "this '(' is not closed", Some(example))
            }
            Kind::Open | Kind::Close | Kind::End => self.fail(token.at.clone(), expected, Some(example)),
        }
    }

    fn unknown_word(&self, word: &str, at: Range<usize>) -> ExpressionError {
        let upper = word.to_uppercase();
        if KEYWORDS.contains(&upper.as_str()) {
            let hint = format!("write {upper}");
            return self.fail(at, format!("'{word}' must be in upper case"), Some(&hint));
        }
        let is_call = self.peek().kind == Kind::Open;
        let what = if is_call { "function" } else { "condition" };
        let hint = match nearest(word, KEYWORDS) {
            Some(keyword) => format!("did you mean {keyword}?"),
            None if is_call => "the functions are ALARM, OK and INSUFFICIENT_DATA".to_owned(),
            None => format!("if it is an alarm's name, write ALARM({word})"),
        };
        self.fail(at, format!("unknown {what} '{word}'"), Some(&hint))
    }

    /// Something follows a complete condition.
    fn trailing(&self) -> ExpressionError {
        let token = self.peek();
        let between = "write AND or OR between two conditions";
        match &token.kind {
            Kind::Bad(error) => error.clone(),
            Kind::Close => self.fail(token.at.clone(), "this ')' closes nothing", Some("remove it")),
            Kind::Word(word) if !KEYWORDS.contains(&word.as_str()) => {
                let upper = word.to_uppercase();
                let (message, hint) = if infix(&upper).is_some() {
                    (format!("'{word}' must be in upper case"), format!("write {upper}"))
                } else if let Some(operator) = nearest(word, ["AND", "OR"]) {
                    (format!("unknown operator '{word}'"), format!("did you mean {operator}?"))
                } else {
                    ("an operator is missing before this".to_owned(), between.to_owned())
                };
                self.fail(token.at.clone(), message, Some(&hint))
            }
            _ => self.fail(token.at.clone(), "an operator is missing before this", Some(between)),
        }
    }
}
