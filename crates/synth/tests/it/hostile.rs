//! Programs that mean harm, or do it by mistake: each gets its error, none hangs, none ends the parent.

use crate::{TEAM, problems, told, web};
use std::time::{Duration, Instant};
use tidegate_synth::limits::WALL_TIME_MAX;

/// How long any of them may take: the backstop, which a machine that does much else may need, and what starting costs there.
const QUICK: Duration = WALL_TIME_MAX.saturating_add(Duration::from_secs(10));

#[test]
fn each_hostile_program_gets_its_error() {
    let nested = format!("export default {}1{};", "(".repeat(600), ")".repeat(600));
    let unary = format!("export default {}1;", "!".repeat(900_000));
    let text = "x".repeat(300);
    let long = format!("export const {text} = {text}.{text};");
    for (code, program) in [
        ("TG321", "for (;;) {}"),
        ("TG321", "function f(): void { try { for (;;) {} } catch { f() } finally { f() } }\nf();"),
        ("TG321", "/^(a+)+$/.test('a'.repeat(60) + '!');"),
        ("TG322", "export default Array.from({ length: 1e9 }, (_, n) => n % 7).length;"),
        ("TG322", "const a: unknown[] = []; for (;;) a.push(new Array(1000).fill(a.length));"),
        ("TG322", "let s = 'x'; for (;;) s += s + 1;"),
        ("TG322", "const f = (n: number): number => f(n + 1) + 1; f(0);"),
        ("TG320", "throw new Error('no');"),
        ("TG320", "throw 'no';"),
        ("TG320", &long),
        ("TG320", "(Object.prototype as any).toJSON = () => 1;"),
        ("TG320", "Object.prototype.toString = () => 'x';"),
        ("TG320", "Array.prototype.map = () => [];"),
        ("TG320", "Object.defineProperty(Array.prototype, 'x', { get: () => 1 });"),
        ("TG320", "Object.setPrototypeOf(Object.prototype, {});"),
        ("TG320", "eval('1');"),
        ("TG320", "new Function('return 1')();"),
        ("TG320", "(function () {}).constructor('return 1')();"),
        ("TG320", "new Date();"),
        ("TG320", "Math.random();"),
        ("TG320", "new WeakRef({});"),
        ("TG320", "performance.now();"),
        ("TG320", "setTimeout(() => {}, 1);"),
        ("TG320", "process.exit(0);"),
        ("TG320", "await Promise.reject(new Error('no'));"),
        ("TG323", "await new Promise(() => {});"),
        ("TG314", "await import('./a');"),
        ("TG314", "console.log(import.meta);"),
        ("TG312", &nested),
        ("TG322", &unary),
        ("TG310", "const x: = 3;"),
        ("TG331", "export default 1;"),
        ("TG331", ""),
    ] {
        let began = Instant::now();
        let found = problems(&[("a.ts", program)]);
        let shown: String = program.chars().take(80).collect();
        assert_eq!(found[0].code, code, "{shown}: {found:?}");
        assert!(began.elapsed() < QUICK, "{shown} took {:?}", began.elapsed());
    }
}

#[test]
fn each_hostile_value_gets_its_error() {
    for (code, members) in [
        ("TG330", "  rolling() { return { healthyFor: () => 1 } as any; }"),
        ("TG330", "  rolling() { const o: any = {}; o.a = o; return o; }"),
        ("TG330", "  rolling() { let o: any = {}; for (let n = 0; n < 1e5; n++) o = { o }; return o; }"),
        ("TG330", "  boxesPerAz = NaN;"),
        ("TG330", "  boxesPerAz = 1 / 0;"),
        ("TG104", "  boxesPerAz = 1e300;"),
        ("TG104", "  boxesPerAz = -1;"),
        ("TG104", "  boxesPerAz = 1.5;"),
        ("TG104", "  boxesPerAz = '3' as any;"),
        ("TG104", "  boxesPerAz = null as any;"),
        ("TG330", "  boxesPerAz = 3n as any;"),
        ("TG330", "  boxesPerAz = Symbol('x') as any;"),
        ("TG330", "  environment() { return new Map([['A', 'b']]) as any; }"),
        ("TG330", "  environment() { return { A: 'x'.repeat(1e8) }; }"),
        ("TG330", "  environment() { return { A: '\\ud800' }; }"),
        ("TG330", "  calls() { return new Array(10) as any; }"),
        ("TG330", "  calls() { return new Array(4e9) as any; }"),
        ("TG330", "  calls() { return Promise.resolve([]) as any; }"),
        (
            "TG330",
            "  calls() { return new Proxy([], { get: (_t, k) => k === 'length' ? 1e15 : 'x' }) as any; }",
        ),
        ("TG330", "  calls() { return new Proxy([], { get() { throw new Error('no'); } }) as any; }"),
        ("TG330", "  calls() { return new Proxy({}, { ownKeys() { throw new Error('no'); } }) as any; }"),
        ("TG320", "  environment() { return { get A(): string { throw new Error('no'); } }; }"),
        ("TG320", "  calls(): string[] { throw new Error('no'); }"),
        ("TG321", "  environment() { return { get A(): string { for (;;) {} } }; }"),
        ("TG330", "  environment() { return { toJSON() { return {}; } } as any; }"),
        ("TG104", "  service = '../../etc' as string;"),
        ("TG104", "  service = 'x'.repeat(1000);"),
        ("TG104", "  stages() { return 'beta' as any; }"),
        ("TG104", "  stages() { return [1] as any; }"),
        ("TG103", "  rolling() { return { healthy_for: '10s' } as any; }"),
    ] {
        let began = Instant::now();
        let found = problems(&[("team.ts", TEAM), ("web.ts", &web(members))]);
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
