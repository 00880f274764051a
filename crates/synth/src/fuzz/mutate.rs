//! How a seed becomes a folder: one that is valid, or nearly, with some of its parts exchanged.

use std::collections::BTreeMap;
use std::sync::LazyLock;

type Folder = BTreeMap<String, String>;

static FOLDERS: LazyLock<Vec<Folder>> = LazyLock::new(|| listed(include_str!("folders.json")));
/// Each with the code that it gets.
static PROGRAMS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| listed(include_str!("programs.json")));
static VALUES: LazyLock<Vec<(String, String)>> = LazyLock::new(|| listed(include_str!("values.json")));

fn listed<T: serde::de::DeserializeOwned>(json: &str) -> Vec<T> {
    serde_json::from_str(json).expect("these files are part of the program, and tests read them")
}

/// Where a folder of [`FOLDERS`] takes a class's members.
const MEMBERS: &str = "//MEMBERS";
/// How many changes are made at most.
const CHANGES_MAX: usize = 5;
/// The longest file that changes make, in bytes: above the limit of a file is refused as a whole.
const FILE_MAX: usize = 64 << 10;
/// Programs that take their whole budget of steps: they cost seconds, so they are taken seldom.
const ENDLESS: &str = "TG32";

/// Pieces of the language, and of what its readers stumble over.
const PIECES: [&str; 56] = [
    "class A extends ",
    " { ",
    "}",
    "(",
    ")",
    "[",
    "]",
    "=>",
    "async ",
    "await ",
    "yield ",
    "function* f() ",
    "import ",
    "export default ",
    "export * from ",
    "\"./team\"",
    "\"./base\"",
    "\"tidegate\"",
    ";",
    "\n",
    "\r\n",
    "\u{2028}",
    "\u{feff}",
    "\0",
    " = ",
    "`${",
    "}`",
    "'",
    "\"",
    "\\",
    "\\u{110000}",
    "/a+/u",
    "...",
    "?.",
    "?? ",
    "new ",
    "super.",
    "this.",
    "#p",
    "@d ",
    "enum E { A = 1e999, B = \"x\" }",
    "namespace N { export const a = 1 }",
    "abstract ",
    "declare ",
    "static { }",
    ": string",
    "<T>",
    " as const",
    " satisfies Bake",
    "0x1n",
    "1e400",
    "-0",
    "/*",
    "//",
    "\u{1f600}",
    "__proto__",
];
/// Values that take another's place.
const NUMBERS: [&str; 12] = [
    "-1",
    "0.1",
    "1e21",
    "9007199254740993",
    "-0",
    "NaN",
    "4294967296",
    "null",
    "undefined",
    "\"\"",
    "[]",
    "{}",
];
/// Names of files that may be there.
const NAMES: [&str; 12] = [
    "a b.ts",
    "\u{e4}.ts",
    "..ts",
    "index.ts",
    "x/y/z.ts",
    "-.ts",
    "constructor.ts",
    "tidegate.ts",
    "__proto__.ts",
    "a.d.ts",
    "\u{1b}[31m.ts",
    "a\n.ts",
];

/// Numbers that look like chance and are the same for the same seed (SplitMix64, DOI 10.1145/2714064.2660195).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to below `end`; 0 if that is 0.
    #[expect(clippy::cast_possible_truncation, reason = "below a usize")]
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % (end.max(1) as u64)) as usize
    }

    pub(super) fn one<'l, T>(&mut self, of: &'l [T]) -> &'l T {
        &of[self.below(of.len())]
    }
}

/// A folder.
pub(super) fn folder(random: &mut Random) -> BTreeMap<String, Vec<u8>> {
    let mut folder = random.one(&FOLDERS).clone();
    let member = if random.below(3) == 0 { listed_text(random, &VALUES) } else { String::new() };
    for text in folder.values_mut() {
        *text = text.replace(MEMBERS, &format!("\n  {member}"));
    }
    if random.below(6) == 0 {
        let text = listed_text(random, &PROGRAMS);
        folder.insert("program.ts".to_owned(), text);
    }
    let mut folder: BTreeMap<String, Vec<u8>> =
        folder.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    for _ in 0..random.below(CHANGES_MAX + 1) {
        change(random, &mut folder);
    }
    folder
}

fn listed_text(random: &mut Random, list: &[(String, String)]) -> String {
    let (code, text) = random.one(list);
    if code.starts_with(ENDLESS) && code != "TG320" && random.below(8) > 0 {
        return String::new();
    }
    text.clone()
}

/// Makes one change.
fn change(random: &mut Random, folder: &mut BTreeMap<String, Vec<u8>>) {
    let names: Vec<String> = folder.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    let name = random.one(&names).clone();
    let other = folder.get(random.one(&names)).cloned().unwrap_or_default();
    match random.below(10) {
        0 => {
            folder.remove(&name);
        }
        1 => {
            let to = (*random.one(&NAMES)).to_owned();
            // Where a file is, no folder can be.
            if !folder.keys().any(|f| f.starts_with(&format!("{to}/")) || to.starts_with(&format!("{f}/"))) {
                folder.insert(to, other);
            }
        }
        _ => {
            let Some(bytes) = folder.get_mut(&name) else { return };
            let start = random.below(bytes.len() + 1);
            let end = (start + random.below(24)).min(bytes.len());
            let put = piece(random, &other);
            if bytes.len() + put.len() < FILE_MAX {
                bytes.splice(start..end, put);
            }
        }
    }
}

/// Something to put where something else was.
fn piece(random: &mut Random, other: &[u8]) -> Vec<u8> {
    match random.below(8) {
        0 => Vec::new(),
        1 => vec![u8::try_from(random.below(256)).unwrap_or_default(); 1 + random.below(3)],
        2 => random.one(&NUMBERS).as_bytes().to_vec(),
        3 => {
            let start = random.below(other.len());
            other[start..(start + random.below(200)).min(other.len())].to_vec()
        }
        4 => random.one(&PIECES).repeat(1 + random.below(600)).into_bytes(),
        5 => listed_text(random, &VALUES).into_bytes(),
        _ => random.one(&PIECES).as_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_folder_and_another_one_another() {
        assert_eq!(folder(&mut Random::new(7)), folder(&mut Random::new(7)));
        assert_ne!(folder(&mut Random::new(7)), folder(&mut Random::new(8)));
        assert!(!VALUES.is_empty() && !PROGRAMS.is_empty());
    }
}
