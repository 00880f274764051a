//! Checks of what targets run: [`EngineDef`] and the batch sizes.

use super::Findings;
use crate::definition::{EngineDef, OrganisationDef, PipelineDef, Rolling};
use crate::run_spec::DefinitionsSpec;

pub(super) fn engine(f: &mut Findings, def: &PipelineDef, organisation: &OrganisationDef) {
    match &def.run.engine {
        EngineDef::Process(process) => {
            if process.command.is_empty() {
                f.add(
                    "TG123",
                    "/run/engine/process/command",
                    "a command has at least a program",
                    "write [\"program\", ...]",
                );
            }
            let health = &process.health;
            let place = "/run/engine/process/health";
            if !health.path.starts_with('/') {
                f.add("TG114", format!("{place}/path"), "a path begins with '/'", "write /health");
            }
            if health.healthy_after == 0 || health.unhealthy_after == 0 {
                f.add("TG126", place, "a health check is passed or failed at least once", "write 1 or more");
            }
            if health.interval.millis() == 0
                || health.timeout.millis() == 0
                || health.start_timeout.millis() == 0
            {
                f.add(
                    "TG126",
                    place,
                    "interval, timeout and start_timeout are longer than nothing",
                    "write 1s or more",
                );
            }
        }
        EngineDef::Configuration(configuration) => {
            let place = "/run/engine/configuration";
            if !configuration.reload.starts_with('/') {
                f.add("TG114", format!("{place}/reload"), "a path begins with '/'", "write /reload");
            }
            if configuration.timeout.millis() == 0 {
                f.add("TG126", format!("{place}/timeout"), "it is longer than nothing", "write 1s or more");
            }
            runs_nothing(f, def, "configuration", "write it in the pipeline of the service's processes");
        }
        EngineDef::Definitions(definitions) => defining(f, def, definitions),
        EngineDef::Command(command) => {
            for (field, run) in [("deploy", &command.deploy), ("observe", &command.observe)] {
                if run.is_empty() {
                    f.add(
                        "TG123",
                        format!("/run/engine/command/{field}"),
                        "a command has at least a program",
                        "write [\"program\", ...]",
                    );
                }
            }
        }
    }
    for (n, called) in def.run.calls.iter().enumerate() {
        if organisation.service(called).is_none() {
            f.add(
                "TG111",
                format!("/run/calls/{n}"),
                format!("'{called}' is not among the organisation's services"),
                "add the service, or mend the name",
            );
        }
    }
    rolling(f, "/rolling", &def.settings(organisation).rolling);
}

/// Batch sizes, with every default in them.
pub(super) fn rolling(f: &mut Findings, place: &str, rolling: &Rolling) {
    let (out, stay) = (rolling.max_unavailable_percent.get(), rolling.min_healthy_percent.get());
    if out == 0 || rolling.rollback_percent.get() == 0 {
        f.add("TG127", place, "with 0 % nothing would ever be replaced", "write 1 to 33");
    }
    if u16::from(out) + u16::from(stay) > 100 {
        f.add(
            "TG127",
            place,
            format!("{out} % out and {stay} % healthy cannot hold together"),
            "the two add up to at most 100",
        );
    }
    if out > 33 || stay < 66 {
        f.add(
            "TG128",
            place,
            format!("at most 33 % may be out and at least 66 % must be healthy, found {out} and {stay}"),
            "use smaller batches (requirement P5)",
        );
    }
}

/// Nothing of it is a process, so nothing can be given to one.
fn runs_nothing(f: &mut Findings, def: &PipelineDef, what: &str, hint: &str) {
    let given = [
        ("environment", def.run.environment.is_empty()),
        ("secrets", def.run.secrets.is_empty()),
        ("calls", def.run.calls.is_empty()),
    ];
    for (field, _) in given.iter().filter(|(_, empty)| !empty) {
        f.add(
            "TG141",
            format!("/run/{field}"),
            format!("{what} runs nothing that it could be given to"),
            hint,
        );
    }
}

/// The server is one unit: nothing of it can be deployed to in parts.
fn defining(f: &mut Findings, def: &PipelineDef, definitions: &DefinitionsSpec) {
    let folder = &definitions.folder;
    if folder.is_empty() || folder.starts_with('/') || folder.split('/').any(|part| part == "..") {
        let message = format!("'{folder}' leads out of its folder");
        let hint = "write a relative path without '..'";
        f.add("TG125", "/run/engine/definitions/folder", message, hint);
    }
    runs_nothing(f, def, "definitions", "leave it out");
    let mut one = |place: &str, right: bool, what: &str, hint: &str| {
        if !right {
            f.add("TG142", place, format!("the server is one: definitions are deployed {what}"), hint);
        }
    };
    let [stage] = def.stages.as_slice() else {
        return one("/stages", false, "in one stage", "leave one of them, such as production");
    };
    one("/stages/0/regions", stage.regions.len() == 1, "in one Region", "name the server's Region");
    one("/stages/0/waves", stage.waves.is_empty(), "in no waves", "leave them out");
    one("/stages/0/one_box", !stage.one_box, "without a one-box", "write \"one_box\": false");
    one("/stages/0/boxes_per_az", stage.boxes_per_az == 1, "as one unit", "write \"boxes_per_az\": 1");
    one(
        "/stages/0/bake/data",
        stage.bake.data.as_ref().is_none_or(Vec::is_empty),
        "without requests",
        "leave them out",
    );
}
