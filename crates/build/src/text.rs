//! What is told of steps, as the classic builder's stream of text.

use crate::options::Event;
use crate::parse::Line;
use crate::report::Told;

/// Writes the stream; keeps what of a character has come of each output.
pub(crate) struct Writer {
    total: usize,
    number: usize,
    rest: [Vec<u8>; 2],
}

impl Writer {
    pub fn new(total: usize) -> Self {
        Self { total, number: 0, rest: Default::default() }
    }

    /// The arguments before the first `FROM`.
    pub fn meta(&mut self, lines: &[Line]) -> Vec<Event> {
        lines
            .iter()
            .map(|line| {
                self.number += 1;
                Event::Stream(format!("Step {}/{} : {}\n", self.number, self.total, line.original))
            })
            .collect()
    }

    /// The text of one thing told.
    pub fn write(&mut self, told: Told) -> Vec<Event> {
        let text = match told {
            Told::Output(piece) => {
                let buf = &mut self.rest[usize::from(piece.stderr)];
                buf.extend_from_slice(&piece.data);
                let text = whole_characters(buf);
                if text.is_empty() {
                    return Vec::new();
                }
                // The error stream is shown in red.
                if piece.stderr { format!("\x1b[91m{text}\x1b[0m") } else { text }
            }
            Told::Pull(progress) => return vec![Event::Progress(progress)],
            Told::Begin(step) => match step.number {
                Some(n) => format!("Step {n}/{} : {}\n", self.total, step.original),
                None => return Vec::new(),
            },
            Told::Triggers(n) => {
                format!("# Executing {n} build trigger{}\n", if n == 1 { "" } else { "s" })
            }
            Told::Cached => " ---> Using cache\n".into(),
            Told::Running(id) => format!(" ---> Running in {}\n", &id[..12.min(id.len())]),
            Told::Ran(id) => {
                let mut events = self.stage_end();
                let id = &id[..12.min(id.len())];
                events.push(Event::Stream(format!(" ---> Removed intermediate container {id}\n")));
                return events;
            }
            Told::Done(Some(id)) => format!(" ---> {id}\n"),
            Told::Done(None) | Told::Failed(_) | Told::Resolving(_) | Told::Resolved => return Vec::new(),
        };
        vec![Event::Stream(text)]
    }

    /// What is left of outputs that ended within a character.
    pub fn stage_end(&mut self) -> Vec<Event> {
        let rest = std::mem::take(&mut self.rest);
        let rest = rest.iter().filter(|b| !b.is_empty());
        rest.map(|b| Event::Stream(String::from_utf8_lossy(b).into_owned())).collect()
    }
}

/// Takes what is complete UTF-8 from the front of a buffer; what can never be is replaced.
fn whole_characters(buf: &mut Vec<u8>) -> String {
    let keep = match std::str::from_utf8(buf) {
        Err(e) if e.error_len().is_none() => buf.len() - e.valid_up_to(),
        _ => 0,
    };
    let rest = buf.split_off(buf.len() - keep);
    let text = String::from_utf8_lossy(buf).into_owned();
    *buf = rest;
    text
}
