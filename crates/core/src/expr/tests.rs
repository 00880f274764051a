use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn check_error(text: &str, expect: Expect) {
    expect.assert_eq(&Expression::parse(text).unwrap_err().render());
}

#[test]
fn precedence_and_parentheses() {
    for (text, printed) in [
        ("ALARM(A)", r#"ALARM("A")"#),
        ("ALARM(A) OR ALARM(B) AND NOT OK(C)", r#"ALARM("A") OR ALARM("B") AND NOT OK("C")"#),
        ("(ALARM(A) OR ALARM(B)) AND OK(C)", r#"(ALARM("A") OR ALARM("B")) AND OK("C")"#),
        ("((ALARM(A) AND (ALARM(B) AND TRUE)))", r#"ALARM("A") AND ALARM("B") AND TRUE"#),
        ("NOT (ALARM(A) OR FALSE)", r#"NOT (ALARM("A") OR FALSE)"#),
        ("NOT NOT INSUFFICIENT_DATA ( \"A\" )\n", r#"NOT NOT INSUFFICIENT_DATA("A")"#),
        ("NOT(ALARM(A))AND ALARM(OK)", r#"NOT ALARM("A") AND ALARM("OK")"#),
    ] {
        let parsed = Expression::parse(text).unwrap();
        assert_eq!(parsed.to_string(), printed);
        assert_eq!(Expression::parse(printed).unwrap(), parsed);
    }
    let or = Expression::parse("ALARM(A) OR ALARM(B) AND ALARM(C)").unwrap();
    assert_eq!(or, Expression::parse("ALARM(A) OR (ALARM(B) AND ALARM(C))").unwrap());
    assert_ne!(or, Expression::parse("(ALARM(A) OR ALARM(B)) AND ALARM(C)").unwrap());
}

#[test]
fn the_value_and_what_it_rests_on() {
    let states: BTreeMap<&str, AlarmState> =
        [("A", AlarmState::Alarm), ("O", AlarmState::Ok), ("I", AlarmState::InsufficientData)].into();
    for (text, holds) in [
        ("ALARM(A)", true),
        ("OK(A)", false),
        ("OK(O) AND INSUFFICIENT_DATA(I)", true),
        ("ALARM(I) OR OK(I)", false),
        ("NOT ALARM(O) AND TRUE", true),
        ("FALSE OR ALARM(O)", false),
        ("TRUE OR FALSE AND FALSE", true),
    ] {
        let found = Expression::parse(text).unwrap().evaluate(|name| states[name.as_str()]);
        assert_eq!(found.state == AlarmState::Alarm, holds, "{text}");
        assert_ne!(found.state, AlarmState::InsufficientData);
    }
    let found = Expression::parse("ALARM(A) OR OK(O) OR ALARM(I) OR OK(A)").unwrap();
    let found = found.evaluate(|name| states[name.as_str()]);
    assert_eq!(format!("{:?} {:?}", found.firing, found.blind), "[A] [I]");
    let blind = Expression::parse("ALARM(I)").unwrap().evaluate(|_| AlarmState::InsufficientData);
    assert!(blind.state == AlarmState::Ok && !blind.is_clear());
}

#[test]
fn errors_point_at_the_character() {
    check_error(
        "ALARM(\"A\") AND (OK(B)",
        expect![[r#"
        this '(' is not closed
          |
        1 | ALARM("A") AND (OK(B)
          |                ^
          = hint: add ')' where the group ends
    "#]],
    );
    check_error(
        "",
        expect![[r#"
        the expression is empty
          |
        1 | 
          | ^
          = hint: write a condition such as ALARM("name")
    "#]],
    );
    check_error(
        "ALARM(A) ALARM(B)",
        expect![[r#"
        an operator is missing before this
          |
        1 | ALARM(A) ALARM(B)
          |          ^^^^^
          = hint: write AND or OR between two conditions
    "#]],
    );
    check_error(
        "alarm(A)",
        expect![[r#"
        'alarm' must be in upper case
          |
        1 | alarm(A)
          | ^^^^^
          = hint: write ALARM
    "#]],
    );
    check_error(
        "ALARM(A) and ALARM(B)",
        expect![[r#"
        'and' must be in upper case
          |
        1 | ALARM(A) and ALARM(B)
          |          ^^^
          = hint: write AND
    "#]],
    );
    check_error(
        "ALRM(A)",
        expect![[r#"
        unknown function 'ALRM'
          |
        1 | ALRM(A)
          | ^^^^
          = hint: did you mean ALARM?
    "#]],
    );
    check_error(
        "AT_LEAST(A)",
        expect![[r#"
        unknown function 'AT_LEAST'
          |
        1 | AT_LEAST(A)
          | ^^^^^^^^
          = hint: the functions are ALARM, OK and INSUFFICIENT_DATA
    "#]],
    );
    check_error(
        "ALARM(A) ORR ALARM(B)",
        expect![[r#"
        unknown operator 'ORR'
          |
        1 | ALARM(A) ORR ALARM(B)
          |          ^^^
          = hint: did you mean OR?
    "#]],
    );
    check_error(
        "ALARM(A) OR",
        expect![[r#"
            a condition is expected after OR
              |
            1 | ALARM(A) OR
              |            ^
              = hint: write a condition such as ALARM("name")
        "#]],
    );
    check_error(
        "ALARM(A) AND OR ALARM(B)",
        expect![[r#"
            a condition is expected before OR
              |
            1 | ALARM(A) AND OR ALARM(B)
              |              ^^
              = hint: write a condition such as ALARM("name")
        "#]],
    );
    check_error(
        "ALARM(A))",
        expect![[r#"
        this ')' closes nothing
          |
        1 | ALARM(A))
          |         ^
          = hint: remove it
    "#]],
    );
    check_error(
        "ALARM(A) OR ()",
        expect![[r#"
        nothing stands between these parentheses
          |
        1 | ALARM(A) OR ()
          |             ^^
    "#]],
    );
    check_error(
        "ALARM()",
        expect![[r#"
        an alarm's name is expected here
          |
        1 | ALARM()
          |       ^
          = hint: write ALARM("name")
    "#]],
    );
    check_error(
        "ALARM(\"\")",
        expect![[r#"
        this is no alarm's name: it is empty
          |
        1 | ALARM("")
          |        ^
    "#]],
    );
    check_error(
        "ALARM(\"A",
        expect![[r#"
        this '"' is not closed
          |
        1 | ALARM("A
          |       ^
          = hint: end the name with '"'
    "#]],
    );
    check_error(
        "ALARM(A",
        expect![[r#"
        this '(' is not closed
          |
        1 | ALARM(A
          |      ^
          = hint: add ')' after the name
    "#]],
    );
    check_error(
        "ALARM A",
        expect![[r#"
        ALARM needs an alarm's name in parentheses
          |
        1 | ALARM A
          | ^^^^^
          = hint: write ALARM("name")
    "#]],
    );
    check_error(
        "ALARM(A B)",
        expect![[r#"
        ')' is expected after the alarm's name
          |
        1 | ALARM(A B)
          |         ^
          = hint: one function takes one name: ALARM(A)
    "#]],
    );
    check_error(
        "\"A\" OR ALARM(B)",
        expect![[r#"
        a name alone is no condition
          |
        1 | "A" OR ALARM(B)
          | ^^^
          = hint: write ALARM("A"), OK("A") or INSUFFICIENT_DATA("A")
    "#]],
    );
    check_error(
        "Frontend_High",
        expect![[r#"
        unknown condition 'Frontend_High'
          |
        1 | Frontend_High
          | ^^^^^^^^^^^^^
          = hint: if it is an alarm's name, write ALARM(Frontend_High)
    "#]],
    );
    check_error(
        "ALARM(“A”)",
        expect![[r#"
        unexpected character '“'
          |
        1 | ALARM(“A”)
          |       ^
          = hint: names stand in straight double quotes: "name"
    "#]],
    );
    check_error(
        "ALARM(A) || ALARM(B)",
        expect![[r#"
        unexpected character '|'
          |
        1 | ALARM(A) || ALARM(B)
          |          ^^
          = hint: write OR
    "#]],
    );
    check_error(
        "ALARM(A)\n  OR ALARM(é)\n  OR ALARM(C)",
        expect![[r#"
        this is no alarm's name: only letters, digits, '_', '-' and '.' are allowed
          |
        2 |   OR ALARM(é)
          |            ^
    "#]],
    );
    check_error(
        "NOT",
        expect![[r#"
            a condition is expected after NOT
              |
            1 | NOT
              |    ^
              = hint: write a condition such as ALARM("name")
        "#]],
    );
    check_error(
        "(",
        expect![[r#"
            this '(' is not closed
              |
            1 | (
              | ^
              = hint: write a condition such as ALARM("name")
        "#]],
    );
}

#[test]
fn of_a_long_line_the_part_around_the_marker_is_shown() {
    let text = format!("{} ? {}", ["ALARM(A)"; 30].join(" OR "), "OR ALARM(B) ".repeat(30));
    check_error(
        &text,
        expect![[r#"
        unexpected character '?'
          |
        1 | …) OR ALARM(A) OR ALARM(A) OR ALARM(A) OR ALARM(A) ? OR ALARM(B) OR ALARM(B) OR ALARM(B) OR ALARM(B) …
          |                                                    ^
    "#]],
    );
}

#[test]
fn unknown_names_are_found_with_the_nearest() {
    let known: BTreeSet<AlarmName> =
        ["Shop_High_Fault_Rate", "Shop_High_P50_Latency"].map(|n| AlarmName::new(n).unwrap()).into();
    let check = |text: &str| Expression::parse(text).unwrap().check_names(&known);
    check("ALARM(Shop_High_Fault_Rate)").unwrap();
    let error = check("ALARM(Shop_High_Fault_Rate) OR ALARM(\"Shop_High_P05_Latency\")").unwrap_err();
    expect![[r#"
        there is no alarm "Shop_High_P05_Latency"
          |
        1 | ALARM(Shop_High_Fault_Rate) OR ALARM("Shop_High_P05_Latency")
          |                                       ^^^^^^^^^^^^^^^^^^^^^
          = hint: did you mean "Shop_High_P50_Latency"?
    "#]]
    .assert_eq(&error.render());
    assert_eq!(check("OK(Zebra)").unwrap_err().hint, None);
}

#[test]
fn limits_hold_without_overflow() {
    let deep = |n: usize| format!("{}TRUE{}", "(".repeat(n), ")".repeat(n));
    Expression::parse(&deep(MAX_DEPTH)).unwrap();
    let error = Expression::parse(&deep(MAX_DEPTH + 1)).unwrap_err();
    assert_eq!(error.to_string(), "the expression is nested more than 64 deep (at character 66)");
    for text in [deep(100_000), "(".repeat(100_000), "NOT ".repeat(100_000), "(".repeat(2_000_000)] {
        Expression::parse(&text).unwrap_err();
    }
    let many = |n: usize| vec!["ALARM(A)"; n].join(" OR ");
    let most = Expression::parse(&many(2_000)).unwrap();
    assert_eq!(Expression::parse(&most.to_string()).unwrap(), most);
    let error = Expression::parse(&many(2_001)).unwrap_err();
    assert_eq!(error.message, "the expression has more than 10000 parts");
    let error = Expression::parse(&" ".repeat(MAX_CHARS + 1)).unwrap_err();
    assert_eq!(error.message, "the expression is longer than 1000000 characters");
    let _ = error.render();
}

#[test]
fn it_is_json_text() {
    let expression: Expression = serde_json::from_str(r#""ALARM(A) OR OK(B)""#).unwrap();
    assert_eq!(serde_json::to_string(&expression).unwrap(), r#""ALARM(\"A\") OR OK(\"B\")""#);
    let error = serde_json::from_str::<Expression>(r#""ALARM(A) OR""#).unwrap_err().to_string();
    assert!(
        error.starts_with("a condition is expected after OR (at character 12); write a condition"),
        "{error}"
    );
    let names = [AlarmName::new("A").unwrap(), AlarmName::new("B").unwrap()];
    assert_eq!(Expression::any_in_alarm(&names), Expression::parse("ALARM(A) OR ALARM(B)"));
    assert_eq!(Expression::any_in_alarm([]), Expression::parse("FALSE"));
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Node::Constant),
        ("[A-Za-z0-9_.-]{1,12}", 0_usize..3).prop_map(|(name, i)| {
            let state = [AlarmState::Ok, AlarmState::Alarm, AlarmState::InsufficientData][i];
            Node::Is(state, AlarmName::new(name).unwrap())
        }),
    ];
    leaf.prop_recursive(8, 64, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|n| Node::Not(Box::new(n))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Node::and(a, b)),
            (inner.clone(), inner).prop_map(|(a, b)| Node::or(a, b)),
        ]
    })
}

proptest! {
    #[test]
    fn printing_and_parsing_gives_the_same(root in node()) {
        let printed = Expression { root: root.clone(), text: String::new(), leaves: Vec::new() }.to_string();
        let parsed = Expression::parse(&printed).unwrap();
        prop_assert_eq!(&parsed.root, &root);
        prop_assert_eq!(parsed.to_string(), printed);
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        if let Err(error) = Expression::parse(&text) {
            let _ = error.render();
        }
    }

    #[test]
    fn no_near_miss_panics_and_the_place_is_in_the_text(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "ALARM", "OK", "INSUFFICIENT_DATA", "AND", "OR", "NOT", "TRUE", "FALSE", "(", ")", "\"", "A", "\"A\"",
                " ", "\n", "\t", "alarm", "é", "&&", "-",
            ]),
            0..24,
        ),
    ) {
        let text = parts.concat();
        match Expression::parse(&text) {
            Ok(parsed) => prop_assert_eq!(Expression::parse(&parsed.to_string()).unwrap(), parsed),
            Err(error) => {
                prop_assert!(error.at.start <= error.at.end && error.at.end <= text.chars().count());
                prop_assert!(error.render().contains('^'));
            }
        }
    }
}
