//! The demo's folder of pipelines, as a user would write it: the team's class, and a few lines for each pipeline. What is known
//! only when the demo runs stands in its `place.ts`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tidegate_synth::{DECLARATIONS, TSCONFIG};

/// Regions in which gamma stands.
pub(crate) const GAMMA: [&str; 2] = ["north", "west"];
/// The Region of beta, and of the first wave: the one with the least traffic.
pub(crate) const FIRST: &str = "north";
/// All Regions, as `organisation.ts` lists them.
pub(crate) const REGIONS: [&str; 4] = ["north", "east", "south", "west"];

/// A file's name and text.
type File = (&'static str, &'static str);

/// The services' pipelines, and all that they need.
pub(crate) const SERVICES: [File; 6] = [
    ("tidegate.d.ts", DECLARATIONS),
    ("tsconfig.json", TSCONFIG),
    ("organisation.ts", include_str!("pipelines/organisation.ts")),
    ("team.ts", include_str!("pipelines/team.ts")),
    ("backend.ts", include_str!("pipelines/backend.ts")),
    ("frontend.ts", include_str!("pipelines/frontend.ts")),
];
/// The pipelines of the team's own commands: static assets and infrastructure (S1, S4).
pub(crate) const COMMANDS: [File; 2] = [
    ("assets.ts", include_str!("pipelines/assets.ts")),
    ("infrastructure.ts", include_str!("pipelines/infrastructure.ts")),
];

/// Writes files into the folder.
///
/// # Errors
/// One cannot be written.
pub(crate) fn write(folder: &Path, files: &[File]) -> Result<(), String> {
    let failed = |path: &PathBuf, error| format!("cannot write {}: {error}", path.display());
    std::fs::create_dir_all(folder).map_err(|error| failed(&folder.to_owned(), error))?;
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

/// Writes `place.ts`: where the on-call engineer is paged, and where the repositories are.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write_place(folder: &Path, pages: &str, repositories: &Path) -> Result<(), String> {
    let mut text = "// Written when the demo began: where its parts are on this machine.\n".to_owned();
    let repositories = repositories.display().to_string();
    for (name, value) in [("pages", pages), ("repositories", repositories.as_str())] {
        // A text of JSON is one of TypeScript.
        let _ = writeln!(text, "export const {name} = {};", serde_json::Value::from(value));
    }
    let path = folder.join("place.ts");
    std::fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
