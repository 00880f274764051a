//! Finds the line of a value: the class's member that says it, and in it the literal, as far as it is one. What was computed is
//! shown by what computed it.

use crate::problem::Place;
use crate::strip::{parse, range};
use oxc_allocator::Allocator;
use oxc_ast::ast::{
    Argument, ArrayExpressionElement, ArrowFunctionBody, Class, ClassElement, Expression, FunctionBody,
    MethodDefinition, NewExpression, ObjectPropertyKind, Statement,
};
use oxc_ast_visit::{Visit, walk};
use oxc_span::{GetSpan, Span};
use std::collections::BTreeMap;

/// The place of a value of a draft.
///
/// `file` is where it is exported, `classes` its class and parents, `path` the names of TypeScript that lead to the value.
pub(crate) fn locate(
    files: &BTreeMap<String, String>,
    file: &str,
    classes: &[String],
    path: &[String],
) -> Option<Place> {
    let mut best: Option<(usize, Place)> = None;
    // The file that exports it may have a class of its own by the name of another's; its own is meant.
    let others = files.keys().map(String::as_str).filter(|f| *f != file);
    for candidate in std::iter::once(file).chain(others) {
        let Some(text) = files.get(candidate) else { continue };
        if !classes.iter().any(|class| text.contains(class.as_str())) {
            continue;
        }
        let arena = Allocator::default();
        let Ok(program) = parse(&arena, candidate, text) else { continue };
        let mut search = Search { classes, path, best: None };
        search.visit_program(&program);
        if let Some((score, span)) = search.best
            && best.as_ref().is_none_or(|(least, _)| score > *least)
        {
            best = Some((score, Place::of(candidate, text, &range(span))));
        }
    }
    best.map(|(_, place)| place)
}

struct Search<'s> {
    classes: &'s [String],
    path: &'s [String],
    best: Option<(usize, Span)>,
}

impl Search<'_> {
    /// A place that explains more of the path wins; then the nearest class; then the first.
    fn found(&mut self, steps: usize, class: usize, span: Span) {
        let score = steps * 1_000 + (999 - class.min(999));
        if self.best.is_none_or(|(best, _)| score > best) {
            self.best = Some((score, span));
        }
    }

    fn class(&self, name: &str) -> Option<usize> {
        self.classes.iter().position(|class| class == name)
    }
}

impl<'a> Visit<'a> for Search<'_> {
    fn visit_class(&mut self, class: &Class<'a>) {
        let name = class.id.as_ref().map(|id| id.name.as_str());
        if let Some(nth) = self.class(name.unwrap_or("default")) {
            self.found(0, nth, class.id.as_ref().map_or(Span::sized(class.span.start, 5), |id| id.span));
            for element in &class.body.body {
                let Some(member) = element.static_name() else { continue };
                // A value of a stage may come from the pipeline's member of that name, and `health` from that of a process.
                for (skipped, _) in self.path.iter().enumerate().filter(|(_, part)| **part == *member) {
                    let rest = &self.path[skipped + 1..];
                    let (more, span) = in_member(element, rest).unwrap_or((0, key_span(element)));
                    let whole = if more == rest.len() { self.path.len() } else { 0 };
                    self.found(1 + more + whole, nth, span);
                }
            }
        }
        walk::walk_class(self, class);
    }

    fn visit_new_expression(&mut self, new: &NewExpression<'a>) {
        if let Expression::Identifier(callee) = &new.callee
            && let Some(nth) = self.class(&callee.name)
        {
            self.found(0, nth, new.callee.span());
            for argument in new.arguments.iter().filter_map(Argument::as_expression) {
                let (more, span) = follow(argument, self.path);
                if more > 0 {
                    self.found(1 + more, nth, span);
                }
            }
        }
        walk::walk_new_expression(self, new);
    }
}

fn key_span(element: &ClassElement<'_>) -> Span {
    element.property_key().map_or(element.span(), GetSpan::span)
}

fn in_member(element: &ClassElement<'_>, path: &[String]) -> Option<(usize, Span)> {
    match element {
        ClassElement::PropertyDefinition(property) => {
            let value = property.value.as_ref()?;
            Some(if path.is_empty() { (0, property.span) } else { follow(value, path) })
        }
        ClassElement::MethodDefinition(method) if !path.is_empty() => in_method(method, path),
        _ => None,
    }
}

fn in_method(method: &MethodDefinition<'_>, path: &[String]) -> Option<(usize, Span)> {
    follow_body(method.value.body.as_ref()?, path)
}

fn follow_body(body: &FunctionBody<'_>, path: &[String]) -> Option<(usize, Span)> {
    let returned = |statement: &Statement<'_>| match statement {
        Statement::ReturnStatement(back) => back.argument.as_ref().map(|value| follow(value, path)),
        _ => None,
    };
    body.statements.iter().filter_map(returned).max_by_key(|(steps, _)| *steps)
}

/// How many parts of the path an expression has as literals, and the last of them.
fn follow(expression: &Expression<'_>, path: &[String]) -> (usize, Span) {
    let expression = expression.get_inner_expression();
    let here = (0, expression.span());
    let Some((first, rest)) = path.split_first() else { return here };
    let one_more = |value: &Expression<'_>| {
        let (steps, span) = follow(value, rest);
        (steps + 1, span)
    };
    match expression {
        Expression::ObjectExpression(object) => {
            let property = object.properties.iter().rev().find_map(|property| match property {
                ObjectPropertyKind::ObjectProperty(p) if p.key.static_name().as_deref() == Some(first) => {
                    Some(p)
                }
                _ => None,
            });
            property.map_or(here, |property| {
                let (steps, span) = one_more(&property.value);
                (steps, if rest.is_empty() { property.span } else { span })
            })
        }
        Expression::ArrayExpression(array) => {
            let spread = array.elements.iter().any(|e| matches!(e, ArrayExpressionElement::SpreadElement(_)));
            let element = first.parse::<usize>().ok().filter(|_| !spread).and_then(|n| array.elements.get(n));
            element.and_then(ArrayExpressionElement::as_expression).map_or(here, one_more)
        }
        // `production({ bake: ... })`: what is said there comes into the value.
        Expression::CallExpression(call) => furthest(&call.arguments, path).unwrap_or(here),
        Expression::NewExpression(new) => furthest(&new.arguments, path).unwrap_or(here),
        Expression::ArrowFunctionExpression(arrow) => match &arrow.body {
            ArrowFunctionBody::FunctionBody(body) => follow_body(body, path).unwrap_or(here),
            body => body.as_expression().map_or(here, |value| follow(value, path)),
        },
        _ => here,
    }
}

fn furthest(arguments: &[Argument<'_>], path: &[String]) -> Option<(usize, Span)> {
    let of = arguments.iter().filter_map(Argument::as_expression).map(|argument| follow(argument, path));
    of.filter(|(steps, _)| *steps > 0).max_by_key(|(steps, _)| *steps)
}

/// The names of TypeScript that lead to a value of the model.
pub(crate) fn path(pointer: &str) -> Vec<String> {
    let part = |part: &str| camel(&part.replace("~1", "/").replace("~0", "~"));
    pointer.split('/').skip(1).map(part).collect()
}

/// `boxes_per_az` as `boxesPerAz`.
pub(crate) fn camel(name: &str) -> String {
    if name.chars().any(|c| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_') {
        return name.to_owned();
    }
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut name, part| {
        let mut chars = part.chars();
        name.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        name.extend(chars);
        name
    })
}
