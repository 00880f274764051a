//! A team's own commands, and a server that is killed in the middle of them: what they left is ended, and no two of a
//! target ever run at once.

use crate::world::{Repo, World, definitions, steps};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use tidegate_api::WorkStatus;

/// A team's tool, of one target. Each run notes in the journal that it starts, lives and ends, takes a lock of its own, and
/// starts two helpers that never end: one of them leaves the process group and all open files. It waits as long as the
/// file hold-<kind> is there.
const TOOL: &str = r#"#!/bin/sh
kind=$1
run="$kind:$$"
journal="$CONTROL/journal"
note() { echo "$1 $run" >> "$journal"; }
note start
exec 9>> "$CONTROL/lock"
flock --nonblock 9 || note overlap
if [ "$kind" != observe ]; then
    (while :; do note tick; sleep 0.05; done) &
    export run journal
    setsid sh -c 'exec 9>&-; while :; do echo "away $run" >> "$journal"; sleep 0.05; done' > /dev/null 2>&1 &
    while [ -e "$CONTROL/hold-$kind" ]; do sleep 0.05; done
    echo "$TIDEGATE_RUN_SPEC 1" > "$TIDEGATE_STATE_DIR/split"
    [ -z "$TIDEGATE_SPLIT" ] || echo "$TIDEGATE_SPLIT" | tr '}' '\n' |
        sed -n 's/.*"run_spec":"\([0-9a-f]*\)".*"boxes":\([0-9]*\).*/\1 \2/p' > "$TIDEGATE_STATE_DIR/split"
elif [ -s "$TIDEGATE_STATE_DIR/split" ]; then
    boxes=
    while read -r run_spec n; do
        while [ "$n" -gt 0 ]; do
            boxes="$boxes,{\"id\":\"$(echo "$run_spec" | cut -c 1-8)-$n\",\"run_spec\":\"$run_spec\",\"healthy\":true}"
            n=$((n - 1))
        done
    done < "$TIDEGATE_STATE_DIR/split"
    echo "{\"boxes\": [${boxes#,}]}"
else
    echo '{"boxes": []}'
fi
note end
"#;

const BUILD: &str = "set -e; mkdir out; cp tool.sh version out; chmod +x out/tool.sh\n";

struct Tool {
    control: PathBuf,
}

impl Tool {
    fn definition(&self, repo: &Repo, shape: &str) -> Value {
        let command = |kind: &str| json!(["tools/tool.sh", kind]);
        let mut definition = definitions::application(repo);
        definition["name"] = json!("assets");
        definition["build"]["package"] = json!([{"from": "out", "to": "tools"}]);
        definition["run"] = json!({
            "engine": {"command": {"shape": shape, "deploy": command("deploy"), "observe": command("observe"),
                "rollback": command("rollback"), "time_limit": "50s"}},
            "environment": {"CONTROL": self.control}
        });
        definition["stages"][0]["boxes_per_az"] = json!(if shape == "one-unit" { 1 } else { 3 });
        definition["rolling"]["healthy_for"] = json!("0s");
        definition
    }

    fn journal(&self) -> Vec<String> {
        let text = fs::read_to_string(self.control.join("journal")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn count(&self, begin: &str) -> usize {
        self.journal().iter().filter(|line| line.starts_with(begin)).count()
    }

    fn hold(&self, kind: &str) -> PathBuf {
        let flag = self.control.join(format!("hold-{kind}"));
        fs::write(&flag, "").unwrap();
        flag
    }

    /// Nothing of a run is heard of any more once another one has started, and each had its target's lock.
    fn assert_no_overlap(&self) {
        let (mut over, mut current) = (BTreeSet::new(), String::new());
        for line in self.journal() {
            let (what, run) = line.split_once(' ').unwrap();
            assert_ne!(what, "overlap", "{run} did not get the lock");
            if what == "start" {
                over.insert(std::mem::replace(&mut current, run.to_owned()));
            }
            assert!(!over.contains(run) && run == current, "{line}: overlaps with {current}");
        }
    }

    /// Kills the server while a command runs, shows that what it started lives on, and starts the server again.
    fn kill_in_the_middle(&self, world: &World, kind: &str, act: impl FnOnce(&World)) {
        let (start, before) = (format!("start {kind}:"), self.count(&format!("start {kind}:")));
        let flag = self.hold(kind);
        act(world);
        let heard = || ["tick", "away"].map(|who| self.count(&format!("{who} {kind}:")));
        let went_on = |since: [usize; 2]| heard().iter().zip(since).all(|(now, then)| *now > then + 2);
        let then = heard();
        world.until(&format!("{kind} and its helpers run"), || {
            (self.count(&start) == before + 1 && went_on(then)).then_some(())
        });
        world.kill_server();
        let then = heard();
        crate::world::wait_for(|| went_on(then).then_some(())).expect("they outlive the server");
        world.restart_server();
        world.until(&format!("{kind} is run again"), || (self.count(&start) == before + 2).then_some(()));
        self.assert_no_overlap();
        fs::remove_file(flag).unwrap();
    }
}

fn killed(shape: &str) {
    let world = World::start();
    let tool = Tool { control: world.dir().join("control") };
    fs::create_dir(&tool.control).unwrap();
    if shape == "many-boxes" {
        // The service has boxes of the fleet as well, which are watched while this bakes; without them nothing is.
        let app = world.repo("shop");
        world.land(&app, &[]);
        world.apply("app", &definitions::application(&app)).well();
    }
    let repo = world.repo("assets");
    world.land(&repo, &[("tool.sh", TOOL), ("build.sh", BUILD)]);
    let mut definition = tool.definition(&repo, shape);
    world.apply("assets", &definition).well();
    world.until_passed("assets", 1);

    tool.kill_in_the_middle(&world, "deploy", |world| {
        world.land(&repo, &[("version", "2")]);
    });
    world.until_passed("assets", 2);

    definition["stages"][0]["bake"]["az"] = json!("1h");
    world.apply("assets", &definition).well();
    world.land(&repo, &[("version", "3")]);
    world.until("r3 bakes", || {
        matches!(steps(&world.pipeline("assets")).next()?.work, WorkStatus::Baking { .. }).then_some(())
    });
    tool.kill_in_the_middle(&world, "rollback", |world| {
        world.bob(&["rollback", "assets", "r3", "--reason", "it looks wrong"]).well();
    });
    world.until_everywhere("assets", 2);
    tool.assert_no_overlap();
    // Nothing was deployed on the way back.
    let journal = tool.journal();
    let first = journal.iter().position(|line| line.starts_with("start rollback:")).unwrap();
    assert!(!journal[first..].iter().any(|line| line.starts_with("start deploy:")));
}

#[test]
fn one_unit_whose_server_is_killed_in_deploy_and_rollback_is_finished() {
    killed("one-unit");
}

#[test]
fn many_boxes_whose_server_is_killed_in_deploy_and_rollback_are_finished() {
    killed("many-boxes");
}
