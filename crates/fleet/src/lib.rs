//! To be described.

pub mod package;
