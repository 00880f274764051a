//! Finds the place of a JSON pointer in the text that was sent, so that every finding can show its line. The text may be
//! broken behind the place: what cannot be followed is no place.

use std::ops::Range;

/// The bytes of the value at a JSON pointer, or of the nearest value around it that is there. With `key`, the last part of
/// the pointer is marked as a key.
pub(crate) fn locate(text: &str, pointer: &str, key: bool) -> Range<usize> {
    let parts: Vec<String> =
        pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
    let mut scan = Scan { text, at: 0 };
    let mut found = scan.value_here();
    for (n, part) in parts.iter().enumerate() {
        let Some(name) = scan.enter(part) else { break };
        let last = n + 1 == parts.len();
        found = if key && last { Some(name) } else { scan.value_here().or(found) };
    }
    found.unwrap_or(0..0)
}

/// The byte at which a line and a column begin, both from 1, as a parser tells them; columns are bytes.
pub(crate) fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (start + column.saturating_sub(1)).min(text.len())
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl Scan<'_> {
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|b| b.is_ascii_whitespace()).count();
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// The value that begins here, without moving on.
    fn value_here(&mut self) -> Option<Range<usize>> {
        self.peek()?;
        let start = self.at;
        // A value that does not end is marked at its first character.
        let end = self.skip().map_or(start + 1, |()| self.at);
        self.at = start;
        Some(start..end)
    }

    /// Moves to the member of this name, or the element of this index, and returns where its name stands.
    fn enter(&mut self, part: &str) -> Option<Range<usize>> {
        match self.peek()? {
            b'{' => {
                self.at += 1;
                loop {
                    self.peek()?;
                    let start = self.at;
                    let name = self.string()?;
                    let range = start..self.at;
                    self.take(b':')?;
                    if name == part {
                        self.peek()?;
                        return Some(range);
                    }
                    self.skip()?;
                    self.take(b',')?;
                }
            }
            b'[' => {
                self.at += 1;
                for _ in 0..part.parse::<usize>().ok()? {
                    self.skip()?;
                    self.take(b',')?;
                }
                self.peek().filter(|b| *b != b']')?;
                Some(self.at..self.at)
            }
            _ => None,
        }
    }

    fn string(&mut self) -> Option<String> {
        let start = self.at;
        self.take(b'"')?;
        loop {
            match self.text.as_bytes().get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        serde_json::from_str(self.text.get(start..self.at)?).ok()
    }

    fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                b',' | b':' => return None,
                _ => {
                    let rest = &self.text.as_bytes()[self.at..];
                    self.at += rest.iter().take_while(|b| !b" \t\r\n,:{}[]\"".contains(b)).count();
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Excerpt;

    #[test]
    fn pointers_are_found_in_the_text() {
        let text = r#"{ "a" : [1, {"b/c": "x\"}y"}, [ ]], "d": {"e": null}, "f": "#;
        for (pointer, key, expected) in [
            ("", false, "{"),
            ("/a", false, r#"[1, {"b/c": "x\"}y"}, [ ]]"#),
            ("/a/0", false, "1"),
            ("/a/1/b~1c", false, r#""x\"}y""#),
            ("/a/1/b~1c", true, r#""b/c""#),
            ("/a/2", false, "[ ]"),
            ("/d/e", false, "null"),
            ("/d/nothing/more", false, r#"{"e": null}"#),
            ("/a/9", false, r#"[1, {"b/c": "x\"}y"}, [ ]]"#),
        ] {
            assert_eq!(&text[locate(text, pointer, key)], expected, "{pointer}");
        }
        assert_eq!(locate("", "/a", false), 0..0);
    }

    #[test]
    fn an_excerpt_marks_the_range_on_its_line() {
        let text = "{\n  \"größe\": {\"a\": 1\n}}";
        let shown = Excerpt::of(text, &locate(text, "/größe", true));
        assert_eq!(shown.render(), "2 |   \"größe\": {\"a\": 1\n  |   ^^^^^^^\n");
        assert_eq!((shown.line, shown.column), (2, 3));
        let long = format!("{}x{}", " ".repeat(300), " ".repeat(300));
        let shown = Excerpt::of(&long, &(300..301));
        assert_eq!((shown.text.len(), shown.mark_at, shown.mark_len, shown.column), (100, 50, 1, 301));
    }
}
