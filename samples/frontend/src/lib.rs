//! The sample service `frontend`: `app` answers requests, `http` carries them.

pub mod app;
pub mod behaviour;
pub mod faults;
pub mod http;
pub mod version;
