//! Composite alarms (M2): boolean expressions over the states of other alarms, in the language of CloudWatch's composite
//! alarms. `ALARM("A")`, `OK(A)` and `INSUFFICIENT_DATA(A)` ask for an alarm's state; `AND`, `OR`, `NOT`, parentheses,
//! `TRUE` and `FALSE` join them. Keywords are in upper case; `NOT` binds tighter than `AND`, `AND` tighter than `OR`.
//!
//! What must hold: no text makes the parser panic or recurse deeper than [`MAX_DEPTH`]; an error points at the character;
//! printing and parsing an expression gives the same expression; a leaf without data is told to the caller (X2) whatever
//! the expression's value is.

mod error;
mod lexer;
mod parser;
pub mod suggest;
#[cfg(test)]
mod tests;

pub use error::ExpressionError;

use crate::alarm::{AlarmName, AlarmState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// The most characters of an expression: no expression of [`MAX_TOKENS`] parts needs more in its printed form (a leaf has
/// four parts and at most 156 characters).
pub const MAX_CHARS: usize = 1_000_000;
/// The most words, names and parentheses of an expression.
pub const MAX_TOKENS: usize = 10_000;
/// How deep parentheses and NOT may be nested.
pub const MAX_DEPTH: usize = 64;

/// A composite alarm's expression. Serialized as its text; equal when it means the same tree, however it was written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Expression {
    root: Node,
    /// As it was written, for errors that point into it.
    text: String,
    /// The alarms' names in the order of the text, and where they stand.
    leaves: Vec<(AlarmName, Range<usize>)>,
}

/// `And` and `Or` hold at least two parts, none of their own kind.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Constant(bool),
    Is(AlarmState, AlarmName),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

/// What an expression says of its alarms' states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// `Alarm` if the expression is true, otherwise `Ok`; never `InsufficientData`, for which see `blind`.
    pub state: AlarmState,
    /// The alarms without data among those that the expression names, in order of their names. While this is not
    /// empty, an `Ok` says nothing: no bake is credited (X2).
    pub blind: Vec<AlarmName>,
    /// The alarms in ALARM among those that the expression names, in order of their names.
    pub firing: Vec<AlarmName>,
}

impl Evaluation {
    /// Whether every alarm has data and the expression is false.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.state == AlarmState::Ok && self.blind.is_empty()
    }
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// What is wrong, at which characters, and what to write instead.
    pub fn parse(text: &str) -> Result<Expression, ExpressionError> {
        let (root, leaves) = parser::parse(text)?;
        Ok(Expression { root, text: text.to_owned(), leaves })
    }

    /// True when any of these alarms is in ALARM; `FALSE` for none.
    ///
    /// # Errors
    /// More names than an expression may have parts.
    pub fn any_in_alarm<'a>(
        names: impl IntoIterator<Item = &'a AlarmName>,
    ) -> Result<Expression, ExpressionError> {
        let leaves: Vec<String> = names.into_iter().map(|name| format!("ALARM(\"{name}\")")).collect();
        Expression::parse(if leaves.is_empty() { "FALSE".into() } else { leaves.join(" OR ") }.as_str())
    }

    /// The alarms that it asks for.
    #[must_use]
    pub fn names(&self) -> BTreeSet<&AlarmName> {
        self.leaves.iter().map(|(name, _)| name).collect()
    }

    /// Its value, given each alarm's state.
    pub fn evaluate(&self, state_of: impl Fn(&AlarmName) -> AlarmState) -> Evaluation {
        let names = self.names();
        let all = |state| names.iter().filter(|n| state_of(n) == state).map(|n| (*n).clone()).collect();
        Evaluation {
            state: self.state(&state_of),
            blind: all(AlarmState::InsufficientData),
            firing: all(AlarmState::Alarm),
        }
    }

    /// Whether it is in ALARM, given each alarm's state; else OK.
    pub fn state(&self, state_of: impl Fn(&AlarmName) -> AlarmState) -> AlarmState {
        if self.root.holds(&state_of) { AlarmState::Alarm } else { AlarmState::Ok }
    }

    /// Checks that every alarm exists.
    ///
    /// # Errors
    /// The first name that is not `known`, with the nearest one that is.
    pub fn check_names(&self, known: &BTreeSet<AlarmName>) -> Result<(), ExpressionError> {
        let Some((name, at)) = self.leaves.iter().find(|(name, _)| !known.contains(name)) else {
            return Ok(());
        };
        let hint = suggest::nearest(name.as_str(), known.iter().map(AlarmName::as_str))
            .map(|nearest| format!("did you mean \"{nearest}\"?"));
        Err(ExpressionError::new(&self.text, at.clone(), format!("there is no alarm \"{name}\""), hint))
    }
}

impl Node {
    /// `left AND right`, as one list with the parts of a left or right that is itself an AND.
    fn and(left: Node, right: Node) -> Node {
        let parts = |node| if let Node::And(parts) = node { parts } else { vec![node] };
        let mut all = parts(left);
        all.extend(parts(right));
        Node::And(all)
    }

    /// `left OR right`, in the same way.
    fn or(left: Node, right: Node) -> Node {
        let parts = |node| if let Node::Or(parts) = node { parts } else { vec![node] };
        let mut all = parts(left);
        all.extend(parts(right));
        Node::Or(all)
    }

    fn holds(&self, state_of: &impl Fn(&AlarmName) -> AlarmState) -> bool {
        match self {
            Node::Constant(value) => *value,
            Node::Is(state, name) => state_of(name) == *state,
            Node::Not(inner) => !inner.holds(state_of),
            Node::And(parts) => parts.iter().all(|part| part.holds(state_of)),
            Node::Or(parts) => parts.iter().any(|part| part.holds(state_of)),
        }
    }

    /// As tightly as its outermost operator binds; a leaf most of all.
    fn binds(&self) -> u8 {
        match self {
            Node::Or(_) => 1,
            Node::And(_) => 2,
            Node::Not(_) | Node::Constant(_) | Node::Is(..) => 3,
        }
    }

    /// Prints it, in parentheses if it binds less than its place asks for.
    fn print(&self, at_least: u8, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grouped = self.binds() < at_least;
        if grouped {
            f.write_str("(")?;
        }
        match self {
            Node::Constant(true) => f.write_str("TRUE")?,
            Node::Constant(false) => f.write_str("FALSE")?,
            Node::Is(state, name) => write!(f, "{state}(\"{name}\")")?,
            Node::Not(inner) => {
                f.write_str("NOT ")?;
                inner.print(3, f)?;
            }
            Node::And(parts) | Node::Or(parts) => {
                for (i, part) in parts.iter().enumerate() {
                    if i > 0 {
                        f.write_str(if self.binds() == 2 { " AND " } else { " OR " })?;
                    }
                    part.print(self.binds() + 1, f)?;
                }
            }
        }
        if grouped { f.write_str(")") } else { Ok(()) }
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Expression) -> bool {
        self.root == other.root
    }
}

impl Eq for Expression {}

impl fmt::Display for Expression {
    /// On one line, names in quotes, without needless parentheses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.print(0, f)
    }
}

impl FromStr for Expression {
    type Err = ExpressionError;
    fn from_str(text: &str) -> Result<Expression, ExpressionError> {
        Expression::parse(text)
    }
}

impl TryFrom<String> for Expression {
    type Error = ExpressionError;
    fn try_from(text: String) -> Result<Expression, ExpressionError> {
        Expression::parse(&text)
    }
}

impl From<Expression> for String {
    fn from(expression: Expression) -> String {
        expression.to_string()
    }
}
