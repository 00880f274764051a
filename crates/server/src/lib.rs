//! The server: HTTP in front, hands behind, and the runtime between them.
//!
//! [`serve`] puts everything together. Handlers extract, convert, call and convert; the hands perform effects and bring
//! observations in. Neither decides anything: that is `tidegate_core`'s.

pub mod adopt;
mod alertmanager;
pub mod apply;
pub mod auth;
pub mod backup;
mod collaborators;
pub mod doctor;
mod estimates;
pub mod fleet;
pub mod format;
pub mod gc;
pub mod hands;
mod home;
pub mod http;
pub mod offline;
pub mod owner;
mod self_update;
pub mod serve;
pub mod standby;
pub mod telemetry;
pub mod view;
