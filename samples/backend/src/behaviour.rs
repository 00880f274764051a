//! How the service behaves in production. Each line is a switch for a kind of bug that no test before production
//! sees: with 0 the service is sound.

/// Of 100 requests, this many are answered with status 500, in production only.
pub const FAULT_PERCENT_IN_PRODUCTION: u64 = 0;

/// A slow burn, in production only: after so many seconds of uptime ...
pub const SLOW_BURN_AFTER_SECONDS: u64 = 20;

/// ... every further second adds so many milliseconds to each answer, ...
pub const SLOW_BURN_MS_PER_SECOND: u64 = 0;

/// ... up to this many.
pub const SLOW_BURN_MAX_MS: u64 = 500;
