//! How long `tidegate synth` takes as a process that has just been started, and what memory it needs: for one pipeline, and for
//! 1,000 subclasses of a team's class in an organisation of 24 Regions with 76 AZs. Beside it, in the same run, an equal
//! program of plain classes in Node, which checks nothing; both outputs are compared as JSON. The file cache is warm.

use crate::report::{Figure, median, percentile};
use crate::scene::Scene;
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

/// How many pipelines, in how many files, and how often each program is run; medians count.
const SIZES: [Size; 2] =
    [Size { pipelines: 1, files: 1, runs: 41 }, Size { pipelines: 1_000, files: 40, runs: 11 }];
/// How often a program's memory is looked at; the most that was seen counts.
const MEMORY_RUNS: usize = 3;
const REGIONS: usize = 24;
/// Node in a run must not be slower than this part of it, and the cold start of one pipeline not slower than that one.
const GOALS: [f64; 2] = [0.1, 1.0];

const TEAM: [(&str, &str); 2] =
    [("ts", include_str!("synth/team.ts")), ("mjs", include_str!("synth/team.mjs"))];
const FLOOR: &str = include_str!("synth/floor.mjs");

#[derive(Debug, Clone, Copy)]
struct Size {
    pipelines: usize,
    files: usize,
    runs: usize,
}

/// One program on one folder.
#[derive(Debug, Serialize)]
struct Taken {
    program: &'static str,
    pipelines: usize,
    median_ms: f64,
    fastest_ms: f64,
    /// What its processes held at most, all of them together.
    peak_mib: f64,
    /// The evaluator's part of that, which is a process of its own.
    child_peak_mib: f64,
}

/// Measures.
pub(crate) fn take(scene: &Scene) -> Result<Figure> {
    let node = node_version()?;
    let mut text = format!(
        "synth: a process that is started anew, medians; Node is {node}, with an equal program of plain classes\n\
         {:<26}{:>10}{:>12}{:>12}{:>11}{:>17}\n",
        "", "pipelines", "median ms", "fastest ms", "peak MiB", "of it the child"
    );
    let mut all = Vec::new();
    for (size, goal) in SIZES.into_iter().zip(GOALS) {
        let folder = scene.folder(&format!("synth-{}", size.pipelines))?;
        let programs = programs(scene, &folder, size)?;
        equal(&programs)?;
        let taken = measure(programs, size)?;
        for one in &taken {
            text.push_str(&format!(
                "{:<26}{:>10}{:>12.1}{:>12.1}{:>11.1}{:>17.1}\n",
                one.program, one.pipelines, one.median_ms, one.fastest_ms, one.peak_mib, one.child_peak_mib
            ));
        }
        let [own, node, ..] = &taken[..] else { bail!("two programs were to be measured") };
        text.push_str(&format!(
            "{} of the time of Node (the goal is {goal:.1}), {:.2} of its memory\n",
            format_args!("{:.2}", own.median_ms / node.median_ms),
            own.peak_mib / node.peak_mib
        ));
        all.extend(taken);
    }
    Figure::new("synth", text, json!({"node": node, "programs": all}))
}

fn node_version() -> Result<String> {
    let output = Command::new("node").arg("--version").output().context("failed to start node")?;
    ensure!(output.status.success(), "node --version fails");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What is run: the first is tidegate's synth, the second what it is measured against; the others do nothing but start.
struct Program {
    name: &'static str,
    command: Vec<PathBuf>,
    took_ms: Vec<f64>,
}

impl Program {
    fn new(name: &'static str, command: impl IntoIterator<Item = PathBuf>) -> Program {
        Program { name, command: command.into_iter().collect(), took_ms: Vec::new() }
    }

    fn start(&self) -> Result<Command> {
        let (program, arguments) = self.command.split_first().context("there is no program")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(command)
    }

    fn output(&self) -> Result<Vec<u8>> {
        let output = self.start()?.output().with_context(|| format!("failed to run {}", self.name))?;
        ensure!(output.status.success(), "{} fails ({})", self.name, output.status);
        Ok(output.stdout)
    }

    /// The highest resident memory of the program and its child, in MiB, and the child's part. The kernel keeps the mark, so
    /// only what grows after the last look is missed.
    fn peaks(&self) -> Result<[f64; 2]> {
        let mut child = self.start()?.spawn().with_context(|| format!("failed to run {}", self.name))?;
        let mut stdout = child.stdout.take().context("it has no output")?;
        let reader = thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        let pid = child.id();
        let mut peaks = [0.0_f64; 2];
        while child.try_wait().context("failed to wait")?.is_none() {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            let of_child = children.split_whitespace().filter_map(high_water_mib).fold(0.0, f64::max);
            peaks[0] = peaks[0].max(high_water_mib(&pid.to_string()).unwrap_or(0.0));
            peaks[1] = peaks[1].max(of_child);
        }
        reader.join().ok().context("the reader failed")?.context("failed to read")?;
        Ok([peaks[0] + peaks[1], peaks[1]])
    }
}

/// None for a process that has ended.
fn high_water_mib(pid: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}

fn programs(scene: &Scene, folder: &Path, size: Size) -> Result<Vec<Program>> {
    for (kind, team) in TEAM {
        let into = folder.join(kind);
        fs::create_dir(&into).context("failed to make a folder")?;
        let mut files = vec![("team".to_owned(), team.to_owned())];
        files.push(("organisation".to_owned(), organisation(size)));
        files.extend((0..size.files).map(|n| (format!("services-{n:02}"), services(size, n))));
        if kind == "mjs" {
            files.push(("main".to_owned(), main_of_node(files.iter().map(|(name, _)| name.as_str()))));
            files.push(("tidegate".to_owned(), FLOOR.to_owned()));
        }
        for (name, text) in files {
            let text = if kind == "mjs" { for_node(&text) } else { text };
            fs::write(into.join(format!("{name}.{kind}")), text).context("failed to write a file")?;
        }
    }
    let tidegate = &scene.tidegate;
    let node = || PathBuf::from("node");
    Ok(vec![
        Program::new("tidegate synth", [tidegate.clone(), "synth".into(), folder.join("ts")]),
        Program::new("Node", [node(), folder.join("mjs/main.mjs")]),
        Program::new("tidegate --version", [tidegate.clone(), "--version".into()]),
        Program::new("Node, an empty program", [node(), "-e".into(), "0".into()]),
    ])
}

fn organisation(size: Size) -> String {
    let region = |n: usize| {
        let azs = &["a", "b", "c", "d"][..3 + usize::from(n >= 20)];
        json!({"name": format!("region-{n:02}"), "azs": azs, "traffic": 10 + 10 * n})
    };
    let service = |n: usize| json!({"name": format!("service-{n:04}"), "team": "shop"});
    let values = json!({
        "name": "bench",
        "users": [{"name": "alice"}, {"name": "bob"}],
        "teams": [{"name": "shop", "members": ["alice", "bob"]}],
        "services": (0..size.pipelines).map(service).collect::<Vec<_>>(),
        "regions": (0..REGIONS).map(region).collect::<Vec<_>>()
    });
    format!("import {{ Organisation }} from \"tidegate\";\n\nexport default new Organisation({values:#});\n")
}

/// A file of some services' pipelines, each a subclass with a line or two of its own.
fn services(size: Size, file: usize) -> String {
    let mut text = "import { TeamPipeline } from \"./team\";\n".to_owned();
    let each = size.pipelines / size.files;
    for n in file * each..(file + 1) * each {
        let own = match n % 3 {
            0 => "  boxesPerAz = 6;\n".to_owned(),
            1 => format!("  environment() {{\n    return {{ SHARD: \"{n}\", LEVEL: \"info\" }};\n  }}\n"),
            _ => String::new(),
        };
        text.push_str(&format!(
            "\nclass Service{n} extends TeamPipeline {{\n  service = \"service-{n:04}\";\n{own}}}\n\n\
             export const service{n} = new Service{n}();\n"
        ));
    }
    text
}

/// The same text as Node finds its imports.
fn for_node(text: &str) -> String {
    text.replace("from \"tidegate\"", "from \"./tidegate.mjs\"")
        .replace("from \"./team\"", "from \"./team.mjs\"")
}

fn main_of_node<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    let mut text = "import { print } from \"tidegate\";\n".to_owned();
    for (n, name) in names.iter().enumerate() {
        text.push_str(&format!("import * as m{n} from \"./{name}.mjs\";\n"));
    }
    let all: Vec<String> = (0..names.len()).map(|n| format!("m{n}")).collect();
    text + &format!("print([{}]);\n", all.join(", "))
}

/// Both programs say the same.
fn equal(programs: &[Program]) -> Result<()> {
    let said = |program: &Program| -> Result<Vec<Value>> {
        let output = String::from_utf8(program.output()?).context("its output is no text")?;
        output.lines().map(|line| serde_json::from_str(line).context("its output is no JSON")).collect()
    };
    let [own, node, ..] = programs else { bail!("two programs were to be compared") };
    let (own, node) = (said(own)?, said(node)?);
    ensure!(own.len() == node.len(), "{} definitions are not {}", own.len(), node.len());
    for (own, node) in own.iter().zip(&node) {
        ensure!(own == node, "the outputs differ:\n{own}\n{node}");
    }
    Ok(())
}

/// One run of each after the other, so that what else the machine does meets all of them.
fn measure(mut programs: Vec<Program>, size: Size) -> Result<Vec<Taken>> {
    for _ in 0..size.runs {
        for program in &mut programs {
            let begun = Instant::now();
            program.output()?;
            program.took_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    programs
        .into_iter()
        .map(|program| {
            let mut peaks = [0.0_f64; 2];
            for _ in 0..MEMORY_RUNS {
                let one = program.peaks()?;
                peaks = if one[0] > peaks[0] { one } else { peaks };
            }
            Ok(Taken {
                program: program.name,
                pipelines: size.pipelines,
                median_ms: median(program.took_ms.iter().copied()),
                fastest_ms: percentile(program.took_ms, 0.0),
                peak_mib: peaks[0],
                child_peak_mib: peaks[1],
            })
        })
        .collect()
}
