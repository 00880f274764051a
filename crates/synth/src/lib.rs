//! Pipelines as code: a folder of TypeScript in, the core's model out.
//!
//! The parent ([`Synth`]) reads the folder and judges what comes back; it never looks into a source. A child process, which has
//! given up files, network, clock, environment and the right to make processes before it reads a byte of them
//! ([`child`]), parses and evaluates. What must hold: the same folder gives the same bytes on every machine; whatever the
//! folder holds, there is an answer or an error within [`limits::WALL_TIME_MAX`]; every error that a line of the folder
//! causes shows that line.
//!
//! There is no planner here: waves are made from the organisation's Regions by the core, on the server. So a new Region reaches
//! every pipeline without a new synthesis.

pub mod child;
mod documents;
mod eval;
mod fence;
mod folder;
pub mod fuzz;
mod library;
pub mod limits;
mod locate;
mod problem;
mod strip;
mod synth;
mod value;
mod wire;

pub use documents::{Document, SCHEMAS, Subject};
pub use library::{DECLARATIONS, SOURCE, TSCONFIG};
pub use problem::{Place, Problem};
pub use synth::{Synth, SynthError, Synthesized};
