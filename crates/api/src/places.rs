//! What stands outside of the pipelines' states: endpoints, packages, the server itself.

use serde::{Deserialize, Serialize};
use tidegate_core::ids::{EnvironmentId, RegionId, ServiceId};
use utoipa::ToSchema;

/// The server serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always 1.
    pub version: u32,
    /// Always true: a standby answers with an error, and a server that is not ready not at all.
    pub ready: bool,
}

/// Where services are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Endpoints {
    /// Always 1.
    pub version: u32,
    /// Ordered by service, environment and Region.
    pub endpoints: Vec<Endpoint>,
}

/// Where one service is called in one Region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// The service.
    #[schema(value_type = String)]
    pub service: ServiceId,
    /// In this environment.
    #[schema(value_type = String)]
    pub environment: EnvironmentId,
    /// In this Region.
    #[schema(value_type = String)]
    pub region: RegionId,
    /// Such as `http://127.0.0.1:20012`.
    pub url: String,
}

/// All packages were read and compared with their digests and signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PackagesVerified {
    /// Always 1.
    pub version: u32,
    /// How many are in order.
    pub good: u64,
    /// Those that are not; no box starts from them.
    pub bad: Vec<BadPackage>,
}

/// A package that is not what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BadPackage {
    /// The digest under which it is kept.
    pub package: String,
    /// What is wrong with it.
    pub why: String,
}
