//! "Did you mean": the known name nearest to one that is not known.

/// The candidate with the fewest edits (insert, delete, replace, swap of neighbours; case is not counted), or `None` if
/// the nearest needs more than a third of its length. Among equals the first wins.
#[must_use]
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text: Vec<char> = text.chars().flat_map(char::to_lowercase).collect();
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let other: Vec<char> = candidate.chars().flat_map(char::to_lowercase).collect();
        let limit = (text.len().max(other.len()) / 3).max(1);
        if text.len().abs_diff(other.len()) > limit {
            continue;
        }
        let distance = edits(&text, &other);
        if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, name)| name)
}

/// Optimal string alignment distance, with three rows.
fn edits(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = row[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            next[j] = replaced.min(row[j] + 1).min(next[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                next[j] = next[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_or_none() {
        let names = ["ALARM", "OK", "INSUFFICIENT_DATA"];
        for (text, expected) in [
            ("alarm", Some("ALARM")),
            ("ALRAM", Some("ALARM")),
            ("ok", Some("OK")),
            ("INSUFICIENT-DATA", Some("INSUFFICIENT_DATA")),
            ("BANANA", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, names), expected, "{text}");
        }
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, n) in [("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 1), ("same", "same", 0)] {
            let chars = |t: &str| t.chars().collect::<Vec<_>>();
            assert_eq!(edits(&chars(a), &chars(b)), n, "{a} {b}");
        }
    }
}
