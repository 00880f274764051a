//! How careful deployments are: bake times, batch sizes, and how far a rejection reaches. A pipeline says what it wants to say;
//! the rest is what its team's defaults say for services of its service's profile, and what they do not say is the profile's
//! figure. So a team has its figures in one place, and a service becomes critical with one word.
//!
//! What must hold: nothing here is resolved before the organisation is known ([`crate::plan`] does it), so an edit of a default
//! reaches every pipeline of the team, as a new Region does (C2).

use super::{EngineDef, OrganisationDef, PipelineDef, StageDef, TeamDef};
use crate::units::{Percent, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How critical a service is: how careful the defaults of its pipelines are (K1: "larger or critical services longer still").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The article's figures.
    #[default]
    Standard,
    /// Twice the bake times, batches of 5 %, boxes that are watched for 30 s before they count, and waves of at most 6 Regions.
    Critical,
}

impl Profile {
    pub(super) fn is_standard(&self) -> bool {
        *self == Profile::Standard
    }

    /// Its bake times.
    #[must_use]
    pub fn bake(self) -> Bake {
        let times = match self {
            Profile::Standard => 1,
            Profile::Critical => 2,
        };
        Bake {
            one_box: Span::hours(times),
            az: Span::minutes(15 * times),
            first_wave: Span::hours(12 * times),
            second_wave: Span::hours(4 * times),
            last_wave: Span::hours(2 * times),
            data: Vec::new(),
        }
    }

    /// Its batch sizes.
    #[must_use]
    pub fn rolling(self) -> Rolling {
        let (out, healthy_for) = match self {
            Profile::Standard => (33, 10),
            Profile::Critical => (5, 30),
        };
        Rolling {
            max_unavailable_percent: Percent::constant(out),
            min_healthy_percent: Percent::constant(66),
            rollback_percent: Percent::constant(33),
            healthy_for: Span::seconds(healthy_for),
            progress_deadline: Span::minutes(10),
        }
    }

    /// The most Regions of the wave of that number, from 0, among those after the first two, which have one each (P2).
    #[must_use]
    pub fn wave_size(self, number: usize) -> usize {
        match (self, number) {
            (Profile::Standard | Profile::Critical, 0) => 3,
            (Profile::Standard, 1) => 12,
            (Profile::Standard, _) => usize::MAX,
            (Profile::Critical, _) => 6,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Standard => "standard",
            Profile::Critical => "critical",
        })
    }
}

/// How far back a rejection reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RollbackScope {
    /// Waves whose bake has ended keep the release.
    #[default]
    UnfinishedWaves,
    /// Everything in production that runs it returns.
    Production,
}

/// "Wait for at least 100 requests to the Create API", counted on boxes that run the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataRequirement {
    /// The API, such as `POST /orders`; all APIs together without one.
    #[serde(default)]
    pub api: Option<String>,
    /// How many requests.
    pub requests: u64,
}

/// A team's defaults for services of one profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DefaultsDef {
    /// Bake times, of every stage.
    #[serde(skip_serializing_if = "BakeDef::is_empty")]
    pub bake: BakeDef,
    /// Batch sizes.
    #[serde(skip_serializing_if = "RollingDef::is_empty")]
    pub rolling: RollingDef,
    /// What a rejection returns; `unfinished-waves` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackScope>,
}

/// Defines what is written, with every value optional, and what comes of it, with every value there.
macro_rules! optional {
    (
        $(#[$def_doc:meta])* $def:ident,
        $(#[$whole_doc:meta])* $whole:ident {
            $($(#[$doc:meta])* $field:ident: $of:ty,)+
        }
    ) => {
        $(#[$def_doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $def {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$of>,)+
        }

        $(#[$whole_doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $whole {
            $($(#[$doc])* pub $field: $of,)+
        }

        impl $def {
            /// Whether it says nothing.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                *self == $def::default()
            }

            /// What it says, and of the other what it does not say.
            #[must_use]
            pub fn or(&self, other: $whole) -> $whole {
                $whole { $($field: self.$field.clone().unwrap_or(other.$field),)+ }
            }
        }

        impl From<$whole> for $def {
            fn from(whole: $whole) -> $def {
                $def { $($field: Some(whole.$field),)+ }
            }
        }
    };
}

optional! {
    /// Bake times of a stage (K1, K2), as far as they are said.
    BakeDef,
    /// Bake times of a stage.
    Bake {
        /// After a one-box; 1 h for standard services.
        one_box: Span,
        /// After each AZ's step but the last of a wave; in pre-production after the last one as well. 15 min for standard
        /// services.
        az: Span,
        /// After the last step of production's first wave; 12 h for standard services.
        first_wave: Span,
        /// After the last step of the second wave; each later wave's is an hour shorter, down to `last_wave`. 4 h for standard
        /// services.
        second_wave: Span,
        /// The shortest bake of a later wave; 2 h for standard services.
        last_wave: Span,
        /// Data points that every bake needs as well, in each Region.
        data: Vec<DataRequirement>,
    }
}

optional! {
    /// Batch sizes of rolling deployments (P5), as far as they are said.
    RollingDef,
    /// Batch sizes of rolling deployments (P5). 33 % stands for a third and 66 % for two thirds.
    Rolling {
        /// Boxes of a target that may be out at once while a release goes forward; 33 % for standard services.
        max_unavailable_percent: Percent,
        /// The share that must be healthy at every moment; 66 % for standard services.
        min_healthy_percent: Percent,
        /// Healthy boxes that may be replaced at once while a release is taken back; 33 % for standard services.
        rollback_percent: Percent,
        /// How long a new box must have been healthy until it counts; 10 s for standard services.
        healthy_for: Span,
        /// How long a deployment may go without another box becoming healthy until it is given up and rolled back; 10 min for
        /// standard services.
        progress_deadline: Span,
    }
}

impl Default for Bake {
    fn default() -> Bake {
        Profile::default().bake()
    }
}

impl Default for Rolling {
    fn default() -> Rolling {
        Profile::default().rolling()
    }
}

/// What holds for all stages of a pipeline, with every default in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How critical its service is.
    pub profile: Profile,
    /// Batch sizes.
    pub rolling: Rolling,
    /// What a rejection returns.
    pub rollback: RollbackScope,
}

impl TeamDef {
    /// Bake times and batch sizes of a pipeline that says nothing itself.
    #[must_use]
    pub fn defaults(&self, profile: Profile) -> (Bake, Rolling) {
        let said = self.defaults.get(&profile).cloned().unwrap_or_default();
        (said.bake.or(profile.bake()), said.rolling.or(profile.rolling()))
    }
}

impl OrganisationDef {
    fn owner_of(&self, pipeline: &PipelineDef) -> Option<&TeamDef> {
        self.team(&self.service(&pipeline.service)?.team)
    }
}

impl PipelineDef {
    /// How critical its service is.
    #[must_use]
    pub fn profile(&self, organisation: &OrganisationDef) -> Profile {
        let said = organisation.service(&self.service).and_then(|service| service.profile);
        said.or_else(|| organisation.owner_of(self).map(|team| team.profile)).unwrap_or_default()
    }

    /// What holds for all its stages.
    #[must_use]
    pub fn settings(&self, organisation: &OrganisationDef) -> Settings {
        let (profile, team) = (self.profile(organisation), organisation.owner_of(self));
        let rolling = team.map_or_else(|| profile.rolling(), |team| team.defaults(profile).1);
        let of_team = team.and_then(|team| team.defaults.get(&profile)?.rollback);
        Settings {
            profile,
            rolling: self.rolling.or(rolling),
            rollback: self.rollback.or(of_team).unwrap_or_default(),
        }
    }

    /// The same where nobody else says anything.
    #[must_use]
    pub fn settings_alone(&self) -> Settings {
        let profile = Profile::default();
        let rollback = self.rollback.unwrap_or_default();
        Settings { profile, rolling: self.rolling.or(profile.rolling()), rollback }
    }

    /// The bake times of one of its stages.
    #[must_use]
    pub fn bake(&self, stage: &StageDef, organisation: &OrganisationDef) -> Bake {
        let profile = self.profile(organisation);
        let team = organisation.owner_of(self);
        let mut defaults = team.map_or_else(|| profile.bake(), |team| team.defaults(profile).0);
        match &self.run.engine {
            EngineDef::Process(_) | EngineDef::Configuration(_) => {}
            // Nobody counts requests there, so a bake would never end by a default that is meant for others.
            EngineDef::Command(_) | EngineDef::Definitions(_) => defaults.data.clear(),
        }
        stage.bake.or(defaults)
    }

    /// The definition as if it had said everything itself that its team's defaults and its profile say for it.
    #[must_use]
    pub fn completed(&self, organisation: &OrganisationDef) -> PipelineDef {
        let settings = self.settings(organisation);
        let mut whole = self.clone();
        for (stage, said) in whole.stages.iter_mut().zip(&self.stages) {
            stage.bake = self.bake(said, organisation).into();
        }
        PipelineDef { rolling: settings.rolling.into(), rollback: Some(settings.rollback), ..whole }
    }
}
