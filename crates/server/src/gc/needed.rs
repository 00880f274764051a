//! What is needed: whatever a rollback may return to, and whatever an engine or a box names.

use super::{GcError, children};
use crate::hands::Hands;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use tidegate_core::definition::SourceDef;
use tidegate_core::ids::{PipelineId, ReleaseNo};
use tidegate_core::pipeline::Pipeline;

/// A digest in hexadecimal digits.
const DIGEST_LEN: usize = 64;

/// What is needed.
#[derive(Debug, Default)]
pub(super) struct Needed {
    pub(super) digests: BTreeSet<String>,
    pub(super) releases: BTreeSet<(PipelineId, ReleaseNo)>,
    pub(super) mirrors: BTreeSet<String>,
}

pub(super) fn needed(hands: &Hands) -> Result<Needed, GcError> {
    let mut needed = Needed::default();
    for id in hands.runtime.pipelines()? {
        let Some(pipeline) = hands.runtime.pipeline(&id)? else { continue };
        let kept = kept_releases(&pipeline);
        let releases: Vec<_> = pipeline.releases.iter().filter(|(no, _)| kept.contains(no)).collect();
        let told = serde_json::to_string(&(releases, &pipeline.slots, &pipeline.steps, &pipeline.reality))
            .unwrap_or_default();
        add_digests(&told, &mut needed.digests);
        needed.releases.extend(kept.into_iter().map(|no| (id.clone(), no)));
        if pipeline.life.is_active() {
            let sources = pipeline.definition.iter().flat_map(|definition| &definition.sources);
            needed.mirrors.extend(sources.map(mirror_name));
        }
    }
    // What engines were told, what somebody at the machine may put back, and what boxes run, also if this server's store does not know it (any more).
    for folder in ["fleet/slots", "fleet/configurations", "fleet/before", "fleet/boxes", "commands/targets"] {
        read_all(&hands.dirs.data.join(folder), &mut |text| add_digests(text, &mut needed.digests))?;
    }
    Ok(needed)
}

/// The releases that a target may run or return to: none is older than the oldest that a slot or a step names.
fn kept_releases(pipeline: &Pipeline) -> BTreeSet<ReleaseNo> {
    // Where it only observes, what is really so as well.
    let slots = pipeline.slots.values().chain(pipeline.real_slots().values());
    let in_slots = slots.flat_map(|slot| slot.history.iter().copied().chain(slot.running()));
    let steps = pipeline.steps.values().chain(pipeline.reality.iter().flat_map(|r| r.steps.values()));
    let in_steps = steps.flat_map(|step| {
        let work = step.work.under_way().map(|(release, _)| release);
        [step.candidate, step.done, work].into_iter().flatten()
    });
    let oldest = in_slots.chain(in_steps).min();
    pipeline.releases.keys().copied().filter(|no| oldest.is_none_or(|oldest| *no >= oldest)).collect()
}

/// Where the poller keeps the mirror of a source.
fn mirror_name(source: &SourceDef) -> String {
    crate::hands::Poller::mirror_name(source)
}

/// Adds every digest that stands in a text.
fn add_digests(text: &str, digests: &mut BTreeSet<String>) {
    let words = text.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == DIGEST_LEN);
    digests.extend(words.map(str::to_owned));
}

/// Reads every JSON file beneath a folder, but not what was unpacked there.
fn read_all(folder: &Path, take: &mut dyn FnMut(&str)) -> Result<(), GcError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| GcError::Read { path, source }
    };
    for (path, is_folder) in children(folder).map_err(failed(folder))? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_folder && !matches!(name, "package" | "packages" | "tmp" | "logs" | "state" | "values") {
            read_all(&path, take)?;
        } else if !is_folder && name.ends_with(".json") {
            match fs::read_to_string(&path) {
                Ok(text) => take(&text),
                // It was replaced just now: its successor is read with the folder, or names what the store names.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(&path)(error)),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_wherever_they_stand() {
        let (one, two) = ("ab".repeat(32), "0".repeat(64));
        let mut digests = BTreeSet::new();
        add_digests(&format!("{{\"package\":\"{one}\",\"x\":[\"{two}\",\"{one}0\"]}}"), &mut digests);
        assert_eq!(digests.into_iter().collect::<Vec<_>>(), [two, one]);
    }
}
