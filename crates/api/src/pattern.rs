//! Room for the regular expressions that strangers write: a few characters can ask for many megabytes.

use std::collections::HashMap;

use regex::{Regex, RegexBuilder};

use crate::regexp;

/// How large the smallest is taken to be. Each further size is four times as large.
const LEAST: usize = 4 << 10;
/// What the states that are made while matching may take, in bytes.
const STATES: usize = 1 << 20;

/// How large what is compiled may get.
#[derive(Debug)]
pub(crate) struct Room {
    /// All together, in bytes, beside what there is already.
    pub left: usize,
    /// One alone.
    pub most: usize,
}

impl Room {
    /// Compiles a pattern ([`regexp`]; [`Regex::as_str`] is not the text given) and takes from the room what it needs, roughly; what it turns out to have no room for too,
    /// because to find that out takes time.
    pub fn compile(&mut self, pattern: &str) -> Result<Regex, String> {
        let wrong = |why: String| format!("error parsing regexp: {why}");
        let ours = regexp::rewrite(pattern).map_err(wrong)?;
        let (mut size, mut tried) = (LEAST, 0);
        loop {
            if size > self.left {
                self.left -= tried;
                return Err("there is no room for it beside the other regular expressions".to_owned());
            }
            match RegexBuilder::new(&ours).size_limit(size).dfa_size_limit(STATES).build() {
                Err(regex::Error::CompiledTooBig(_)) if size < self.most => {
                    (size, tried) = (self.most.min(size * 4), size);
                }
                built => {
                    self.left -= size;
                    return built.map_err(|e| wrong(e.to_string()));
                }
            }
        }
    }
}

/// What the regular expressions of schemas become, and how large they may get together. One that stands at many places, as
/// that of a quantity does, is there once.
#[derive(Debug)]
pub(crate) struct Patterns {
    known: HashMap<String, Regex>,
    room: Room,
}

impl Patterns {
    /// Room for some thousands of the usual ones.
    pub fn new() -> Self {
        Self { known: HashMap::new(), room: Room { left: 32 << 20, most: regexp::MAX_SIZE } }
    }

    /// Compiles a pattern, or finds it.
    pub fn compile(&mut self, pattern: &str) -> Result<Regex, String> {
        if let Some(known) = self.known.get(pattern) {
            return Ok(known.clone());
        }
        let built = self.room.compile(pattern)?;
        self.known.insert(pattern.to_owned(), built.clone());
        Ok(built)
    }

    /// Those that come have nothing in common with those that were.
    pub fn forget(&mut self) {
        self.known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_takes_room() {
        let mut room = Room { left: 4 << 20, most: 1 << 20 };
        assert!(room.compile("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$").unwrap().is_match("a-b"));
        let small = (4 << 20) - room.left;
        assert!(small <= 16 << 10, "{small}");
        let error = room.compile(r"\pL{500}").unwrap_err();
        assert!(error.contains("size limit"), "{error}");
        let kept = (0..100).filter(|i| room.compile(&format!(r"\pL{{10}}{i}")).is_ok()).count();
        assert!((1..50).contains(&kept), "{kept}");
        for _ in 0..100 {
            assert!(room.compile(r"\pL{10}").unwrap_err().contains("no room"));
        }
        assert!(room.left < LEAST, "to try takes time: {}", room.left);
        assert!(room.compile("(").is_err());
    }
}
