//! One TypeScript file becomes JavaScript: parsed, its types taken away, its imports listed, its lines mapped.
//!
//! Class fields: a field that is declared again without a value says a type and nothing else, so it does not reset what the
//! parent gave; and fields are assigned, so that a parent's accessor is not hidden.

use crate::limits::NESTING_MAX;
use crate::problem::{Place, Problem};
use oxc_allocator::Allocator;
use oxc_ast::ast::{Program, Statement};
use oxc_codegen::{Codegen, CodegenOptions};
use oxc_diagnostics::OxcDiagnostic;
use oxc_parser::Parser;
use oxc_semantic::SemanticBuilder;
use oxc_span::{SourceType, Span};
use oxc_transformer::{TransformOptions, Transformer};
use std::ops::Range;
use std::path::Path;

/// A file without its types.
#[derive(Debug)]
pub(crate) struct Stripped {
    pub(crate) code: String,
    /// Line and column (UTF-16) of the JavaScript, and those of the TypeScript, all from 0, in the order of the first two.
    map: Vec<[u32; 4]>,
    /// What it imports when it runs, and where that stands.
    pub(crate) imports: Vec<(String, Range<usize>)>,
}

impl Stripped {
    /// The line and the column in the TypeScript, both from 0, of a line and a column in the JavaScript, both from 0.
    pub(crate) fn original(&self, line: u32, column: u32) -> Option<(u32, u32)> {
        let after = self.map.partition_point(|[l, c, ..]| (*l, *c) <= (line, column));
        let [found, _, to_line, to_column] = *self.map.get(after.checked_sub(1)?)?;
        (found == line).then_some((to_line, to_column))
    }
}

pub(crate) fn range(span: Span) -> Range<usize> {
    span.start as usize..span.end as usize
}

/// Parses a file and tells the first thing that is wrong with it.
pub(crate) fn parse<'a>(arena: &'a Allocator, file: &str, text: &'a str) -> Result<Program<'a>, Problem> {
    if let Some(at) = too_deep(text) {
        let message = format!("brackets are nested more than {NESTING_MAX} deep");
        let place = Place::of(file, text, &(at..at + 1));
        return Err(Problem::new("TG312", message, "give parts of it names").at(place));
    }
    let parsed = Parser::new(arena, text, SourceType::ts()).parse();
    if let Some(wrong) = parsed.diagnostics.into_iter().next() {
        return Err(syntax(&wrong, file, text));
    }
    let dynamic = parsed.module_record.dynamic_imports.first().map(|import| import.span);
    if let Some(span) = dynamic.or_else(|| parsed.module_record.import_metas.first().copied()) {
        let place = Place::of(file, text, &range(span));
        let hint = "write import { ... } from \"./file\" at the top of the file";
        return Err(Problem::new("TG314", "only whole files are imported, at their top", hint).at(place));
    }
    Ok(parsed.program)
}

pub(crate) fn strip(file: &str, text: &str) -> Result<Stripped, Problem> {
    let arena = Allocator::default();
    let mut program = parse(&arena, file, text)?;
    let semantic = SemanticBuilder::new().with_enum_eval(true).build(&program);
    if let Some(wrong) = semantic.diagnostics.into_iter().next() {
        return Err(syntax(&wrong, file, text));
    }
    let mut options = TransformOptions::default();
    options.typescript.remove_class_fields_without_initializer = true;
    options.assumptions.set_public_class_fields = true;
    let transformer = Transformer::new(&arena, Path::new(file), &options);
    let transformed = transformer.build_with_scoping(semantic.semantic.into_scoping(), &mut program);
    if let Some(wrong) = transformed.diagnostics.into_iter().next() {
        return Err(syntax(&wrong, file, text));
    }
    let imports = imports(&program);
    let options = CodegenOptions { source_map_path: Some(file.into()), ..CodegenOptions::default() };
    let made = Codegen::new().with_options(options).build(&program);
    let tokens = made.map.iter().flat_map(|map| map.get_tokens());
    let mut map: Vec<[u32; 4]> =
        tokens.map(|t| [t.get_dst_line(), t.get_dst_col(), t.get_src_line(), t.get_src_col()]).collect();
    map.sort_unstable();
    Ok(Stripped { code: made.code, map, imports })
}

/// What is left of the imports when those of types are gone.
fn imports(program: &Program<'_>) -> Vec<(String, Range<usize>)> {
    let source = |statement: &Statement<'_>| {
        let source = match statement {
            Statement::ImportDeclaration(import) => &import.source,
            Statement::ExportFromDeclaration(export) => &export.source,
            Statement::ExportAllDeclaration(export) => &export.source,
            _ => return None,
        };
        Some((source.value.to_string(), range(source.span)))
    };
    program.body.iter().filter_map(source).collect()
}

fn syntax(wrong: &OxcDiagnostic, file: &str, text: &str) -> Problem {
    let at = wrong.labels.first().map_or(0..0, |label| {
        let start = label.offset() as usize;
        start..start + label.len() as usize
    });
    let hint =
        wrong.help.as_deref().unwrap_or("mend the line; an editor with the types shows it as you write");
    Problem::new("TG310", wrong.message.to_string(), hint).at(Place::of(file, text, &at))
}

/// Where brackets are nested too deep for the parser, which calls itself for each. Brackets in texts and comments are
/// counted as well: they come in pairs, or are few.
fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth > NESTING_MAX {
            return Some(at);
        }
    }
    None
}

/// The file that an import names, or what is wrong with it and what to do.
pub(crate) fn resolve(
    from: &str,
    name: &str,
    is_there: impl Fn(&str) -> bool,
) -> Result<String, (&'static str, String, &'static str)> {
    let refused = |message: &str| {
        let hint = "import \"tidegate\", or a file of this folder as \"./name\"";
        Err(("TG311", message.to_owned(), hint))
    };
    if name == crate::library::NAME {
        return Ok(name.to_owned());
    }
    if !name.starts_with("./") && !name.starts_with("../") {
        return refused(&format!("'{}' cannot be imported", shown(name)));
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in name.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                if parts.pop().is_none() {
                    return refused(&format!("'{}' leads out of the folder", shown(name)));
                }
            }
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    let without = path.strip_suffix(".js").unwrap_or(&path);
    let found =
        [path.clone(), format!("{without}.ts"), format!("{path}/index.ts")].into_iter().find(|p| is_there(p));
    found.ok_or_else(|| ("TG313", format!("there is no {}.ts", shown(without)), "mend the name of the file"))
}

fn shown(name: &str) -> String {
    name.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_stay_in_the_folder() {
        let is_there = |path: &str| ["a.ts", "team/base.ts", "team/index.ts"].contains(&path);
        for (from, name, expected) in [
            ("a.ts", "tidegate", Ok("tidegate")),
            ("a.ts", "./team/base", Ok("team/base.ts")),
            ("a.ts", "./team/base.ts", Ok("team/base.ts")),
            ("a.ts", "./team/base.js", Ok("team/base.ts")),
            ("a.ts", "./team", Ok("team/index.ts")),
            ("team/base.ts", "../a", Ok("a.ts")),
            ("team/base.ts", "../../a", Err("TG311")),
            ("a.ts", "../a", Err("TG311")),
            ("a.ts", "/etc/passwd", Err("TG311")),
            ("a.ts", "fs", Err("TG311")),
            ("a.ts", "tidegate/internal", Err("TG311")),
            ("a.ts", "./b", Err("TG313")),
        ] {
            let found = resolve(from, name, is_there);
            assert_eq!(found.as_deref().map_err(|e| e.0), expected, "{from} {name}");
        }
    }

    #[test]
    fn types_go_and_lines_stay_known() {
        let text = "import { type A } from './types';\nimport { b } from './b';\nenum E { X = 2 }\nclass C {\n  y: number;\n  z = b as number;\n}\nthrow new Error(String(E.X));\n";
        let stripped = strip("a.ts", text).unwrap();
        assert_eq!(stripped.imports, [("./b".to_owned(), 52..57)]);
        let line = stripped.code.lines().position(|l| l.contains("throw")).unwrap() as u32;
        assert_eq!(stripped.original(line, 0), Some((7, 0)));
        assert!(!stripped.code.contains("y"), "{}", stripped.code);
    }
}
