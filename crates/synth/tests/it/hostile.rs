//! Programs that mean harm, or do it by mistake: each gets its error, none hangs, none ends the parent.

use crate::{TEAM, problems, told, web};
use std::time::{Duration, Instant};
use tidegate_synth::limits::WALL_TIME_MAX;

/// How long any of them may take: the backstop, which a machine that does much else may need, and what starting costs there.
const QUICK: Duration = WALL_TIME_MAX.saturating_add(Duration::from_secs(10));

/// The first code of what is said of each text. The fuzzer begins with the same ones.
fn listed(json: &str) -> Vec<(String, String)> {
    serde_json::from_str(json).unwrap()
}

#[test]
fn each_hostile_program_gets_its_error() {
    let nested = format!("export default {}1{};", "(".repeat(600), ")".repeat(600));
    let unary = format!("export default {}1;", "!".repeat(900_000));
    let text = "x".repeat(300);
    let long = format!("export const {text} = {text}.{text};");
    let own =
        [("TG320", long), ("TG312", nested), ("TG322", unary)].map(|(code, text)| (code.to_owned(), text));
    for (code, program) in listed(include_str!("../../src/fuzz/programs.json")).into_iter().chain(own) {
        let began = Instant::now();
        let found = problems(&[("a.ts", &*program)]);
        let shown: String = program.chars().take(80).collect();
        assert_eq!(found[0].code, code, "{shown}: {found:?}");
        assert!(began.elapsed() < QUICK, "{shown} took {:?}", began.elapsed());
    }
}

#[test]
fn each_hostile_value_gets_its_error() {
    for (code, member) in listed(include_str!("../../src/fuzz/values.json")) {
        let members = format!("  {member}");
        let began = Instant::now();
        let found = problems(&[("team.ts", TEAM), ("web.ts", &web(&members))]);
        assert_eq!(found[0].code, code, "{members}: {found:?}");
        assert!(began.elapsed() < QUICK, "{members} took {:?}", began.elapsed());
    }
}

#[test]
fn a_list_that_the_engine_makes_without_a_pause_ends_as_well() {
    let began = Instant::now();
    let found = problems(&[("a.ts", "export default (new Array(1e9) + '').length;")]);
    assert!(["TG321", "TG322"].contains(&found[0].code.as_str()), "{found:?}");
    assert_eq!(found[0].place.as_ref().unwrap().file, "a.ts");
    assert!(began.elapsed() < QUICK, "it took {:?}", began.elapsed());
}

#[test]
fn files_that_import_each_other_or_get_out_are_refused() {
    let own = told(&[("a.ts", "import { a } from './a';\nexport const b = a;")]);
    assert!(own.starts_with("TG315: a.ts imports itself\n  at a.ts:1:19\n"), "{own}");
    let cycle = told(&[
        ("a.ts", "import { b } from './b';\nexport const a = b;"),
        ("b.ts", "import { c } from './c';\nexport const b = c;"),
        ("c.ts", "import { a } from './a';\nexport const c = a;"),
    ]);
    assert!(cycle.contains("a.ts -> b.ts -> c.ts -> a.ts"), "{cycle}");
    for (code, name) in [
        ("TG311", "../x"),
        ("TG311", "/etc/passwd"),
        ("TG311", "fs"),
        ("TG311", "tidegate/internal"),
        ("TG313", "./x"),
    ] {
        let found = problems(&[("a.ts", &format!("import {{ x }} from '{name}';\nexport default x;"))]);
        assert_eq!(found[0].code, code, "{name}");
    }
}

#[test]
fn types_may_be_imported_in_a_circle() {
    let a = "import type { B } from './b';\nexport interface A { b: B }\nexport const one = 1;";
    let b = "import { type A, one } from './a';\nexport interface B { a?: A }\nexport const two = one + 1;";
    let found = problems(&[("a.ts", a), ("b.ts", b)]);
    assert_eq!(found[0].code, "TG331", "{found:?}");
}
