//! Arbitrary sources, and valid ones with something changed: always an answer or an error, never a hang, never an internal
//! error.

use crate::{TEAM, run, web};
use proptest::prelude::*;
use tidegate_synth::SynthError;

/// What a source may be made of: pieces of the language in any order.
const PIECES: [&str; 40] = [
    "class A extends ",
    "B",
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
    "function* f",
    "import ",
    "export default ",
    "from './a'",
    ";",
    "\n",
    "x",
    " = ",
    "`${",
    "}`",
    "'",
    "\"",
    "/a+/",
    "...",
    "?.",
    "?? ",
    "new ",
    "super.",
    "#p",
    "@d ",
    "enum E",
    "namespace N",
    "abstract ",
    "declare ",
    ": string",
    "<T>",
    "0x1n",
    "/*",
];

fn answered(text: &str) {
    match run(&[("a.ts", text)]) {
        Ok(_) => {}
        Err(SynthError::Problems { problems, .. }) => {
            assert!(problems.iter().all(|p| p.code != "TG399"), "{text:?}: {problems:?}");
        }
        Err(other) => panic!("{text:?}: {other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        answered(&text);
    }

    #[test]
    fn any_pieces_are_answered(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..60)) {
        answered(&pieces.concat());
    }

    #[test]
    fn a_valid_source_with_a_part_changed_is_answered(
        from in 0_usize..900,
        length in 0_usize..20,
        piece in prop::sample::select(&PIECES[..]),
    ) {
        let valid = format!("{TEAM}{}", web("").replace("import { ShopPipeline } from \"./team\";", ""));
        let (start, end) = (from.min(valid.len()), (from + length).min(valid.len()));
        answered(&format!("{}{piece}{}", &valid[..start], &valid[end..]));
    }
}
