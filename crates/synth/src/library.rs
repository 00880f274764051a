//! The library that pipelines import as "tidegate", as it is in the binary.

/// Its TypeScript.
pub const SOURCE: &str = include_str!("../library/tidegate.ts");
/// Its types for editors and compilers, made of [`SOURCE`]; a test keeps both in step.
pub const DECLARATIONS: &str = include_str!("../library/tidegate.d.ts");
/// [`SOURCE`] without its types, and `internal.ts`, which is what the evaluator asks of it: made of them, so that they need not
/// be parsed in each run; a test keeps them in step.
pub(crate) const SCRIPT: &str = include_str!("../library/tidegate.js");
pub(crate) const INTERNAL_SCRIPT: &str = include_str!("../library/internal.js");
/// What is done to a fresh engine before anything else.
pub(crate) const PRELUDE: &str = include_str!("../library/prelude.js");
/// The names under which they are imported.
pub(crate) const NAME: &str = "tidegate";
/// As [`NAME`]; users cannot.
pub(crate) const INTERNAL_NAME: &str = "tidegate/internal";
/// How an editor and a compiler find [`DECLARATIONS`] as "tidegate".
pub const TSCONFIG: &str = include_str!("../library/tsconfig.json");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strip::strip;
    use expect_test::expect_file;

    #[test]
    fn the_scripts_are_the_sources_without_their_types() {
        let internal = include_str!("../library/internal.ts");
        expect_file!["../library/tidegate.js"].assert_eq(&strip(NAME, SOURCE).unwrap().code);
        expect_file!["../library/internal.js"].assert_eq(&strip(INTERNAL_NAME, internal).unwrap().code);
    }
}
