//! What this build calls itself; shown by `GET /version`.

/// The version.
pub const VERSION: &str = "1.0.0";
