//! The library that pipelines import as "tidegate", as it is in the binary.

/// Its TypeScript.
pub const SOURCE: &str = include_str!("../library/tidegate.ts");
/// Its types for editors and compilers, made of [`SOURCE`]; a test keeps both in step.
pub const DECLARATIONS: &str = include_str!("../library/tidegate.d.ts");
/// What the evaluator asks of it.
pub(crate) const INTERNAL: &str = include_str!("../library/internal.ts");
/// What is done to a fresh engine before anything else.
pub(crate) const PRELUDE: &str = include_str!("../library/prelude.js");
/// The names under which they are imported.
pub(crate) const NAME: &str = "tidegate";
/// As [`NAME`]; users cannot.
pub(crate) const INTERNAL_NAME: &str = "tidegate/internal";
/// How an editor and a compiler find [`DECLARATIONS`] as "tidegate".
pub const TSCONFIG: &str = include_str!("../library/tsconfig.json");
