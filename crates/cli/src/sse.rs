//! Server-sent events, as far as tidegate sends them: `id` and `data`, one line each, and comments that keep alive.

/// The longest line, in bytes: a fact may hold a whole definition.
const LINE_MAX_BYTES: usize = 32 << 20;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    pub(crate) id: String,
    pub(crate) data: String,
}

/// Cuts a stream of bytes into events.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    rest: Vec<u8>,
    event: SseEvent,
}

/// A line that does not end.
#[derive(Debug, thiserror::Error)]
#[error("the server sent a line of more than {LINE_MAX_BYTES} bytes")]
pub(crate) struct LineTooLong;

impl SseParser {
    /// Takes more bytes and gives the events that are complete now.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, LineTooLong> {
        let mut events = Vec::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            if self.rest.len() + piece.len() > LINE_MAX_BYTES {
                return Err(LineTooLong);
            }
            self.rest.extend_from_slice(piece);
            if !piece.ends_with(b"\n") {
                break;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.rest)).trim_end().to_owned();
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                events.extend(Some(event).filter(|e| !e.data.is_empty()));
            } else if let Some((field, value)) = line.split_once(':') {
                let value = value.strip_prefix(' ').unwrap_or(value);
                match field {
                    "id" => value.clone_into(&mut self.event.id),
                    "data" => self.event.data.push_str(value),
                    // Comments, and fields that are not used.
                    _ => {}
                }
            }
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_whole_however_the_bytes_are_cut() {
        let stream = b":\n\nid: 7\nevent: fact\ndata: {\"a\":\"\xc3\xbc\"}\n\nid: 8\ndata: {}\n\n: alive\n\nid: 9\ndata: x";
        let of = |id: &str, data: &str| SseEvent { id: id.into(), data: data.into() };
        for size in 1..stream.len() {
            let mut parser = SseParser::default();
            let events: Vec<_> = stream.chunks(size).flat_map(|c| parser.push(c).unwrap()).collect();
            assert_eq!(events, [of("7", "{\"a\":\"ü\"}"), of("8", "{}")], "{size}");
        }
    }
}
