//! How something came about, in words and in order. Steps that were passed are told in one line, so that what is left at
//! the end is what the last event met.

use crate::decision::{Decision, Fact};
use crate::ids::{ReleaseNo, TargetId};
use crate::pipeline::{Pipeline, PipelineFact};
use crate::plan::StepId;
use std::collections::BTreeMap;

/// Lines so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Path(Vec<Line>);

#[derive(Debug, Clone)]
enum Line {
    /// A release passed these steps.
    Passed(ReleaseNo, Vec<StepId>),
    /// Something happened in a step that has not been passed since.
    Within(StepId, String),
    /// Something else.
    Said(String),
}

impl Path {
    pub(super) fn say(&mut self, text: impl Into<String>) {
        self.0.push(Line::Said(text.into()));
    }

    /// Adds what was decided; `pipeline` as it is now.
    pub(super) fn add(&mut self, pipeline: &Pipeline, decision: &Decision) {
        let mut asked: BTreeMap<(StepId, u32), Vec<&TargetId>> = BTreeMap::new();
        let mut back: BTreeMap<Option<ReleaseNo>, Vec<&TargetId>> = BTreeMap::new();
        let facts = decision.facts.iter().filter_map(|(_, fact)| match fact {
            Fact::Pipeline(fact) => Some(fact),
            _ => None,
        });
        for fact in facts {
            match fact {
                PipelineFact::ReleaseCreated { release, .. } => self.say(format!("{release} is made")),
                PipelineFact::Entered { step, release, .. } => {
                    self.0.push(Line::Within(step.clone(), format!("{release} enters {step}")));
                }
                PipelineFact::BakeStarted { step, .. } => {
                    self.0.push(Line::Within(step.clone(), format!("it bakes in {step}")));
                }
                PipelineFact::StepDone { step, release, .. } => self.pass(step, *release),
                PipelineFact::Rejected { release, cause, .. } => {
                    self.say(format!("{release} is rejected ({cause})"));
                }
                PipelineFact::SlotAsked { target, asked: boxes, .. } => {
                    let step = pipeline.plan.step_of(target).map(|(_, step)| step.id.clone());
                    if let Some(step) = step {
                        asked.entry((step, *boxes)).or_default().push(target);
                    }
                }
                PipelineFact::SlotBack { target, to, .. } => back.entry(*to).or_default().push(target),
                _ => {}
            }
        }
        for (to, targets) in back {
            let to = to.map_or_else(|| "nothing".to_owned(), |to| to.to_string());
            self.say(format!("{} returned to {to}", are(&targets)));
        }
        for ((step, boxes), targets) in asked {
            let text = format!("{} brought to {boxes} new boxes", are(&targets));
            self.0.push(Line::Within(step, text));
        }
    }

    fn pass(&mut self, passed: &StepId, by: ReleaseNo) {
        self.0.retain(|line| !matches!(line, Line::Within(step, _) if step == passed));
        match self.0.last_mut() {
            Some(Line::Passed(release, steps)) if *release == by => steps.push(passed.clone()),
            _ => self.0.push(Line::Passed(by, vec![passed.clone()])),
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let line = |line: &Line| match line {
            Line::Passed(release, steps) => {
                let names: Vec<&str> = steps.iter().map(StepId::as_str).collect();
                format!("{release} passes {}", names.join(", "))
            }
            Line::Within(_, text) | Line::Said(text) => text.clone(),
        };
        self.0.iter().map(line).collect()
    }
}

fn are(targets: &[&TargetId]) -> String {
    match targets {
        [one] => format!("{one} is"),
        several => format!("{} targets are", several.len()),
    }
}
