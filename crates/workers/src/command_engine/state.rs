//! What the engine keeps on disk for a slot: `state.json` (what it shall be and how far that is) and `secrets.json`
//! (mode 0600). What must hold: a command was accepted only when it is on disk, and a higher fence never goes back.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tidegate_core::engine::{Desired, Fence};
use tidegate_core::ids::{RunSpecDigest, SecretName, SlotId};
use tidegate_core::run_spec::{CommandSpec, DefinitionsSpec, RunSpec, Shape, Workload};
use tidegate_fleet::protocol::SetSlot;

/// The version of `state.json`; another one is refused.
pub(super) const VERSION: u32 = 1;
/// So many RunSpecs are known of a slot, the newest first, beside those that its split names.
const RUN_SPECS_KEPT: usize = 16;
const STATE: &str = "state.json";
const SECRETS: &str = "secrets.json";

/// Why a command to a slot is refused; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// A newer command was accepted before.
    #[error("command {fence} to {slot} is older than {accepted}, which was accepted before")]
    StaleFence {
        /// The slot.
        slot: Box<SlotId>,
        /// Of the command.
        fence: Fence,
        /// The highest accepted one.
        accepted: Fence,
    },
    /// The same fence was accepted with another content.
    #[error("command {fence} to {slot} was accepted before with another content")]
    FenceReused {
        /// The slot.
        slot: Box<SlotId>,
        /// Of both commands.
        fence: Fence,
    },
    /// The command contradicts itself.
    #[error("the command to {slot} is not valid: {why}")]
    Invalid {
        /// The slot.
        slot: Box<SlotId>,
        /// What is wrong.
        why: String,
    },
    /// It could not be kept.
    #[error("cannot keep the command in {path}", path = path.display())]
    Persist {
        /// The slot's folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Why a slot's state cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("its version is {0}, and this program knows {VERSION}")]
    Version(u32),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SlotState {
    version: u32,
    pub(super) slot: SlotId,
    pub(super) fence: Fence,
    pub(super) rollback: bool,
    pub(super) desired: Desired,
    /// The command for `desired` has ended well.
    pub(super) applied: bool,
    /// The RunSpec whose package was last given the lead: its commands take the slot away when the split is empty.
    active: Option<RunSpecDigest>,
    run_specs: Vec<RunSpec>,
}

impl SlotState {
    /// The state after a command to a slot that had `old`. The same content under a higher fence keeps what is done.
    pub(super) fn accept(old: Option<&SlotState>, set: &SetSlot) -> Result<SlotState, SetError> {
        let slot = Box::new(set.slot.clone());
        let mut applied = false;
        if let Some(old) = old {
            let same = old.desired == set.desired && old.rollback == set.rollback;
            if set.fence < old.fence {
                return Err(SetError::StaleFence { slot, fence: set.fence, accepted: old.fence });
            }
            if set.fence == old.fence && !same {
                return Err(SetError::FenceReused { slot, fence: set.fence });
            }
            applied = same && old.applied;
        }
        // What is there already is only looked at.
        applied |= set.takes_up.is_some();
        let known = old.map(|o| &o.run_specs[..]).unwrap_or_default();
        let mut state = SlotState {
            version: VERSION,
            slot: set.slot.clone(),
            fence: set.fence,
            rollback: set.rollback,
            desired: set.desired.clone(),
            applied,
            active: old.and_then(|o| o.active.clone()),
            run_specs: Vec::new(),
        };
        let named = |digest: &RunSpecDigest| set.desired.split.iter().any(|s| s.run_spec == *digest);
        let mut beside = 0;
        for spec in set.run_specs.iter().chain(known) {
            let digest = spec.digest();
            let wanted = named(&digest) || state.active.as_ref() == Some(&digest);
            if state.run_spec(&digest).is_none() && (wanted || beside < RUN_SPECS_KEPT) {
                beside += usize::from(!wanted);
                state.run_specs.push(spec.clone());
            }
        }
        state.check().map_err(|why| SetError::Invalid { slot, why })?;
        state.active = state.lead().map(RunSpec::digest).or(state.active);
        Ok(state)
    }

    fn check(&self) -> Result<(), String> {
        let mut shapes = Vec::new();
        for share in &self.desired.split {
            let spec = self
                .run_spec(&share.run_spec)
                .ok_or_else(|| format!("RunSpec {} is named but not given", share.run_spec))?;
            let means = means(spec).ok_or_else(|| format!("RunSpec {} has no commands", share.run_spec))?;
            if let Means::Commands(command) = means
                && (command.deploy.is_empty() || command.observe.is_empty())
            {
                return Err(format!("RunSpec {} has an empty command", share.run_spec));
            }
            shapes.push(means.shape());
        }
        if shapes.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err("its RunSpecs are of both shapes".to_owned());
        }
        let boxes: Vec<u32> = self.desired.split.iter().map(|s| s.boxes).filter(|n| *n > 0).collect();
        if shapes.first() == Some(&Shape::OneUnit) && boxes.len() > 1 {
            return Err("one unit runs one RunSpec, and the split names several".to_owned());
        }
        Ok(())
    }

    pub(super) fn run_spec(&self, digest: &RunSpecDigest) -> Option<&RunSpec> {
        self.run_specs.iter().find(|s| s.digest() == *digest)
    }

    /// The RunSpec whose package's commands are run for the split: its first one that is not condemned. For a rollback
    /// that is what is returned to. `None` when nothing shall be there.
    pub(super) fn lead(&self) -> Option<&RunSpec> {
        let mut present = self.desired.split.iter().filter(|s| s.boxes > 0).map(|s| &s.run_spec);
        let first = present.clone().next();
        let lead = present.find(|d| !self.desired.condemned.contains(d)).or(first)?;
        self.run_spec(lead)
    }

    /// The RunSpec whose commands are run: the lead, or without one what was there before.
    pub(super) fn commands_of(&self) -> Option<&RunSpec> {
        self.lead().or_else(|| self.active.as_ref().and_then(|d| self.run_spec(d)))
    }

    /// Whether all that is wanted is condemned: so begins a rollback, whose next order hangs on what is seen. There is nothing
    /// to be run for it, least of all a condemned release's command.
    pub(super) fn only_condemns(&self) -> bool {
        let mut present = self.desired.split.iter().filter(|s| s.boxes > 0).peekable();
        present.peek().is_some() && present.all(|s| self.desired.condemned.contains(&s.run_spec))
    }

    /// The secrets of these that a RunSpec of the slot names.
    pub(super) fn named(
        &self,
        all: impl IntoIterator<Item = (SecretName, String)>,
    ) -> BTreeMap<SecretName, String> {
        all.into_iter()
            .filter(|(name, _)| self.run_specs.iter().any(|s| s.secrets.values().any(|n| n == name)))
            .collect()
    }

    pub(super) fn write(&self, dir: &Path) -> std::io::Result<()> {
        write(dir, STATE, self)
    }

    /// Whether this program knows the version, whatever else a newer one says.
    pub(super) fn check_version(dir: &Path) -> Result<(), ReadError> {
        #[derive(Deserialize)]
        struct Form {
            version: u32,
        }
        let Form { version } = read(&dir.join(STATE))?;
        if version == VERSION { Ok(()) } else { Err(ReadError::Version(version)) }
    }

    pub(super) fn read(dir: &Path) -> Result<SlotState, ReadError> {
        SlotState::check_version(dir)?;
        read(&dir.join(STATE))
    }
}

/// How the RunSpec's release is put in place.
#[derive(Clone, Copy)]
pub(super) enum Means<'a> {
    /// By the team's own commands.
    Commands(&'a CommandSpec),
    /// By the server, which takes them in.
    Definitions(&'a DefinitionsSpec),
}

impl Means<'_> {
    pub(super) fn shape(self) -> Shape {
        match self {
            Means::Commands(command) => command.shape,
            Means::Definitions(_) => Shape::OneUnit,
        }
    }
}

/// How a RunSpec of this engine is put in place.
pub(super) fn means(spec: &RunSpec) -> Option<Means<'_>> {
    match &spec.workload {
        Workload::Command(command) => Some(Means::Commands(command)),
        Workload::Definitions(definitions) => Some(Means::Definitions(definitions)),
        Workload::Process(_) | Workload::Configuration(_) => None,
    }
}

pub(super) fn write_secrets(dir: &Path, secrets: &BTreeMap<SecretName, String>) -> std::io::Result<()> {
    write(dir, SECRETS, secrets)
}

pub(super) fn read_secrets(dir: &Path) -> Result<BTreeMap<SecretName, String>, ReadError> {
    match read(&dir.join(SECRETS)) {
        Err(ReadError::Io(e)) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        other => other,
    }
}

pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ReadError> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Replaces a file as a whole and returns when that would outlive a loss of power.
pub(super) fn write(dir: &Path, name: &str, value: &impl Serialize) -> std::io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()?;
    fs::rename(&new, dir.join(name))?;
    File::open(dir)?.sync_all()
}
