//! Performs builds: one at a time, niced, in the sandbox; the log is there to read while it grows.

use super::Hands;
use super::dispatch::Performed;
use super::{keeping, turns};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidegate_core::causes;
use tidegate_core::decision::{BuildOrder, EffectId};
use tidegate_core::ids::PackageDigest;
use tidegate_core::pipeline::{Build, PipelineEvent};
use tidegate_core::units::Timestamp;
use tidegate_workers::build::{BuildFailure, BuildPlan, BuildSource, Builder};
use tidegate_workers::sandbox::{Log, Sandbox};
use tidegate_workers::secrets::{Masker, Secret};

/// A step is ended by the sandbox at the build's time limit and told so in the log; exporting and packing, which have no
/// limit of their own, are ended so much later.
const TIME_GRACE: Duration = Duration::from_secs(30);
/// The sandbox's program.
const BUBBLEWRAP: &str = "bwrap";

pub(super) async fn perform(hands: &Arc<Hands>, id: &EffectId, order: &BuildOrder) -> Performed {
    let Some(_place) = turns::place(hands, &hands.build_places, id, &order.pipeline).await else {
        return Performed::Failed("the server is stopping".to_owned());
    };
    // While it waited for its place, the pipeline may have given it up.
    if !still_wanted(hands, id, order) {
        return Performed::Done;
    }
    if let Some(why) = keeping::refuses_builds(hands).await {
        hands.turns.ended(id);
        turns::waits(hands, id, &order.pipeline).await;
        return Performed::Failed(why);
    }
    let result = build(hands, order).await;
    hands.keeping.built();
    let result = match result {
        Ok(package) => Ok(package),
        Err(Problem::OfTheChange(why)) => Err(why),
        // The machine's trouble is no fault of the change: it is tried again, until the deadline gives it up.
        Err(Problem::OfTheMachine(why)) => return Performed::Failed(why),
    };
    let event = PipelineEvent::BuildEnded { effect: id.clone(), result };
    match hands.tell_result(id, &order.pipeline, event).await {
        Ok(()) => Performed::Told,
        Err(error) => Performed::Failed(causes(&error)),
    }
}

fn still_wanted(hands: &Hands, id: &EffectId, order: &BuildOrder) -> bool {
    let pipeline = hands.runtime.pipeline(&order.pipeline).ok().flatten();
    pipeline
        .as_ref()
        .and_then(|p| p.releases.get(&order.release))
        .is_some_and(|release| matches!(&release.build, Build::Building { effect, .. } if effect == id))
}

enum Problem {
    OfTheChange(String),
    OfTheMachine(String),
}

async fn build(hands: &Arc<Hands>, order: &BuildOrder) -> Result<PackageDigest, Problem> {
    let machine = |e: &dyn std::error::Error| Problem::OfTheMachine(causes(e));
    // Asked anew for every build: a machine that lost its sandbox refuses, it never builds without.
    let sandbox =
        Sandbox::check(Path::new(BUBBLEWRAP)).await.map_err(|e| Problem::OfTheChange(causes(&e)))?;
    let builder = Builder::open(
        sandbox,
        hands.packages.clone(),
        Arc::clone(&hands.signing_key),
        &hands.dirs.builds,
        &hands.dirs.cache,
    )
    .map_err(|e| machine(&e))?;
    let mut sources = Vec::new();
    let mut secrets: BTreeMap<String, Secret> = BTreeMap::new();
    for definition in &order.sources {
        let Some(commit) = order.commits.get(&definition.name) else { continue };
        let mirror = hands.poller.mirror(hands, definition).await.map_err(Problem::OfTheMachine)?;
        sources.push(BuildSource {
            id: definition.name.clone(),
            mirror,
            commit: commit.clone(),
            committed: committed_at(hands, order, commit),
        });
        if let Some(name) = &definition.secret {
            let secret = hands.secrets.get(name).map_err(|e| machine(&e))?;
            secrets.insert(name.as_str().to_uppercase().replace('-', "_"), secret);
        }
    }
    let path = Hands::build_log(&hands.dirs, &order.pipeline, order.release);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| machine(&e))?;
    }
    let log = Log::create(&path, Masker::new(secrets.values())).map_err(|e| machine(&e))?;
    let name = format!("{}-{}", order.pipeline, order.release);
    let limit = Duration::from(order.build.limits.time).saturating_add(TIME_GRACE);
    let plan = BuildPlan { definition: order.build.clone(), tool_paths: hands.tool_paths.clone() };
    let building = builder.build(&name, &plan, &sources, &secrets, &log);
    match tokio::time::timeout(limit, building).await {
        Ok(Ok(built)) => Ok(built.digest),
        Ok(Err(failure)) if failure.is_fault_of_change() => Err(Problem::OfTheChange(describe(&failure))),
        Ok(Err(failure)) => Err(Problem::OfTheMachine(describe(&failure))),
        Err(_) => Err(Problem::OfTheChange(format!("it took longer than {}", order.build.limits.time))),
    }
}

fn describe(failure: &BuildFailure) -> String {
    let mut text = causes(failure);
    if let BuildFailure::Step { last_lines, .. } | BuildFailure::NoSpace { last_lines, .. } = failure {
        text.push('\n');
        text.push_str(last_lines);
    }
    text
}

fn committed_at(hands: &Hands, order: &BuildOrder, commit: &tidegate_core::ids::CommitId) -> Timestamp {
    let pipeline = hands.runtime.pipeline(&order.pipeline).ok().flatten();
    pipeline
        .iter()
        .flat_map(|p| p.releases.values())
        .flat_map(|r| &r.changes)
        .find(|c| &c.commit.id == commit)
        .map_or(Timestamp(0), |c| c.commit.committed_at)
}
