//! Text for terminals: colours only where they are seen, texts of other people without control characters, long texts
//! broken at a width, and spans of time in two characters or so.

use crate::error::CliError;
use bytesize::ByteSize;
use std::io::{IsTerminal, Write};
use tidegate_core::units::{Span, Timestamp};

/// The width that people's output keeps to, in characters.
pub(crate) const WIDTH: usize = 100;

/// Paints words, or leaves them as they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(bool);

impl Paint {
    /// For stdout: colours if it is a terminal and nobody has said NO_COLOR.
    pub(crate) fn stdout() -> Paint {
        Paint(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()))
    }

    #[cfg(test)]
    pub(crate) const NONE: Paint = Paint(false);

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn moving(self, text: &str) -> String {
        self.with("36", text)
    }

    pub(crate) fn waits(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }
}

/// Without control characters: subjects and reasons are other people's texts.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Breaks a text at words so that no line is wider than [`WIDTH`] after `indent` characters. The first line has no indent.
pub(crate) fn wrap(text: &str, indent: usize) -> String {
    let room = WIDTH.saturating_sub(indent).max(20);
    let (mut out, mut used) = (String::new(), 0);
    for word in clean(text).split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            used = 0;
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out
}

/// How long ago, or how long until: `12s`, `5m`, `3h`, `2d`.
pub(crate) fn between(one: Timestamp, other: Timestamp) -> String {
    let seconds = one.since(other).millis().max(other.since(one).millis()) / 1_000;
    match seconds {
        0..=99 => format!("{seconds}s"),
        100..=5_999 => format!("{}m", seconds / 60),
        6_000..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A time to come, in its two largest units.
pub(crate) fn roughly(span: Span) -> String {
    let minutes = span.millis() / 60_000;
    match minutes {
        0..=1 => format!("{}s", span.millis() / 1_000),
        2..=59 => format!("{minutes}m"),
        60..=2_879 => format!("{}h{:02}m", minutes / 60, minutes % 60),
        _ => format!("{}d{:02}h", minutes / 1_440, minutes / 60 % 24),
    }
}

/// Bytes as people read them.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// Writes data to stdout.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            CliError::Closed
        } else {
            CliError::failed("write to stdout", error)
        }
    })
}
