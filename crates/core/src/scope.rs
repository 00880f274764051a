//! Where an alarm holds: an environment of a team in one Region. Gamma never rolls production back.

use crate::ids::{EnvironmentId, InvalidId, RegionId, TargetId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// An environment in one Region, written `production/eu-1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope {
    /// The environment.
    pub environment: EnvironmentId,
    /// The Region.
    pub region: RegionId,
}

impl Scope {
    /// The scope that a target lies in.
    #[must_use]
    pub fn of(target: &TargetId) -> Scope {
        Scope { environment: target.environment.clone(), region: target.region.clone() }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.environment, self.region)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Scope {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        let Some((environment, region)) = text.split_once('/') else {
            return Err(InvalidId { what: "scope", text, why: "environment/region is expected" });
        };
        Ok(Scope { environment: environment.parse()?, region: region.parse()? })
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> String {
        scope.to_string()
    }
}
