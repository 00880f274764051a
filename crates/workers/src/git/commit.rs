//! Commits as they are read from git: everything in them was written by others, and has a limit.

use tidegate_core::change::Commit;
use tidegate_core::ids::CommitId;
use tidegate_core::units::Timestamp;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// How much of a commit is looked at, in bytes; what stands further down is ignored.
const COMMIT_BYTES_MAX: u64 = 64 * 1024;
/// The longest author name or address, in characters; longer ones are cut.
const NAME_CHARS_MAX: usize = 200;
/// The longest subject, in characters; longer ones are cut.
const SUBJECT_CHARS_MAX: usize = 300;
/// The most parents, reverts and fixes of one commit that are kept, each.
const LINKS_MAX: usize = 200;
/// The shortest prefix of a commit's name that counts in a `Fixes:` trailer.
const PREFIX_DIGITS_MIN: usize = 7;

/// Reads one answer of `git cat-file --batch`; `None` at the end.
pub(super) async fn read_commit(input: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Commit>> {
    let mut line = Vec::new();
    (&mut *input).take(256).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
    let strange = || std::io::Error::other(format!("git answers '{line}'"));
    let mut words = line.split(' ');
    let (Some(id), Some("commit"), Some(size)) = (words.next(), words.next(), words.next()) else {
        return Err(strange());
    };
    let id = CommitId::new(id).map_err(|_| strange())?;
    let size: u64 = size.parse().map_err(|_| strange())?;
    let mut raw = Vec::new();
    (&mut *input).take(size.min(COMMIT_BYTES_MAX)).read_to_end(&mut raw).await?;
    // The rest, and the newline that ends the answer.
    let skipped = size - raw.len() as u64 + 1;
    tokio::io::copy(&mut (&mut *input).take(skipped), &mut tokio::io::sink()).await?;
    Ok(Some(parse(id, &raw)))
}

fn parse(id: CommitId, raw: &[u8]) -> Commit {
    let text = String::from_utf8_lossy(raw);
    let (head, message) = text.split_once("\n\n").unwrap_or((&text, ""));
    let field = |name: &'static str| head.lines().filter_map(move |l| l.strip_prefix(name));
    let (author_name, author_email, _) = person(field("author ").next().unwrap_or(""));
    let (_, _, committed_at) = person(field("committer ").next().unwrap_or(""));
    let subject: Vec<&str> =
        message.lines().skip_while(|l| l.trim().is_empty()).take_while(|l| !l.trim().is_empty()).collect();
    Commit {
        id,
        parents: field("parent ").filter_map(|p| CommitId::new(p).ok()).take(LINKS_MAX).collect(),
        author_name,
        author_email,
        committed_at,
        subject: clean(&subject.join(" "), SUBJECT_CHARS_MAX),
        reverts: message.lines().filter_map(reverted).take(LINKS_MAX).collect(),
        fixes: message.lines().filter_map(fixed).take(LINKS_MAX).collect(),
    }
}

/// `Name <address> seconds zone`.
fn person(text: &str) -> (String, String, Timestamp) {
    let (name, rest) = text.split_once('<').unwrap_or((text, ""));
    let (address, time) = rest.rsplit_once('>').unwrap_or((rest, ""));
    let seconds: i64 = time.split_whitespace().next().and_then(|s| s.parse().ok()).unwrap_or(0);
    (clean(name, NAME_CHARS_MAX), clean(address, NAME_CHARS_MAX), Timestamp(seconds.saturating_mul(1_000)))
}

/// Without control characters (a terminal would obey them) and not too long.
fn clean(text: &str, chars_max: usize) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(chars_max).collect()
}

fn hex_word(text: &str) -> String {
    text.trim_start().chars().take_while(char::is_ascii_hexdigit).take(65).collect::<String>().to_lowercase()
}

fn reverted(line: &str) -> Option<CommitId> {
    CommitId::new(hex_word(line.strip_prefix("This reverts commit ")?)).ok()
}

fn fixed(line: &str) -> Option<String> {
    let (key, value) = line.split_once(':')?;
    let word = hex_word(value);
    let ends = !value.trim_start()[word.len()..].starts_with(|c: char| c.is_alphanumeric());
    let fits = key.eq_ignore_ascii_case("fixes") && (PREFIX_DIGITS_MIN..=64).contains(&word.len());
    (fits && ends).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(message: &str) -> Commit {
        let one = "1".repeat(40);
        let raw = format!(
            "tree {one}\nparent {one}\nauthor A\u{1b}[2J B <a@b> 12 +0100\ncommitter C <c@d> 1700000000 -0200\n\
             gpgsig -----BEGIN\n parent {one}\n -----END\n\n{message}"
        );
        parse(CommitId::new(one).unwrap(), raw.as_bytes())
    }

    #[test]
    fn headers_are_read_and_cleaned() {
        let c = commit("first\nline\n\nbody\n");
        assert_eq!((c.author_name.as_str(), c.author_email.as_str()), ("A[2J B", "a@b"));
        assert_eq!(c.committed_at, Timestamp(1_700_000_000_000));
        assert_eq!((c.subject.as_str(), c.parents.len()), ("first line", 1));
        assert_eq!(commit(&"x".repeat(100_000)).subject.len(), SUBJECT_CHARS_MAX);
        let odd = parse(CommitId::new("2".repeat(40)).unwrap(), b"\xff\xfe no header");
        assert_eq!((odd.subject.as_str(), odd.committed_at), ("", Timestamp(0)));
    }

    #[test]
    fn reverts_and_fixes_are_found() {
        let (two, three) = ("2".repeat(40), "abcdef0123".repeat(4));
        let c = commit(&format!(
            "Revert \"x\"\n\nThis reverts commit {two}.\nThis reverts commit {three}, reversing\nchanges.\n\
             This reverts commit 222.\n"
        ));
        assert_eq!(c.reverts, [CommitId::new(two).unwrap(), CommitId::new(three).unwrap()]);
        let c = commit(
            "x\n\nFixes: ABCDEF012 (\"subject\")\nfixes: #12\nFixes: 123456\nFixes: deadbeefs\nFixes: é\n",
        );
        assert_eq!(c.fixes, ["abcdef012"]);
    }
}
