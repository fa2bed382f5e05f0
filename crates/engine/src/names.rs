//! Container names: which are legal, which are made up, and how a reference (name, id or unique id prefix)
//! finds an id.

use std::collections::HashMap;

use crate::error::{Error, Result, conflict, invalid};

const ADJECTIVES: &[&str] = &[
    "able", "amber", "apt", "bold", "brave", "bright", "brisk", "calm", "candid", "clear", "clever", "cosy",
    "crisp", "curious", "daring", "deft", "eager", "early", "fair", "fast", "fine", "firm", "fond", "frank",
    "fresh", "gentle", "glad", "golden", "grand", "green", "happy", "hardy", "honest", "humble", "jolly",
    "keen", "kind", "lively", "loyal", "lucid", "lucky", "mellow", "merry", "mild", "modest", "neat",
    "nimble", "noble", "patient", "plain", "polite", "proud", "quick", "quiet", "ready", "serene", "sharp",
    "silent", "smooth", "solid", "steady", "sunny", "swift", "tidy", "tender", "trusty", "upbeat", "vivid",
    "warm", "wise", "witty", "young", "zesty",
];
const NOUNS: &[&str] = &[
    "acorn",
    "alder",
    "anchor",
    "badger",
    "barge",
    "beacon",
    "birch",
    "bison",
    "breeze",
    "brook",
    "canoe",
    "cedar",
    "clover",
    "comet",
    "condor",
    "coral",
    "crane",
    "dolphin",
    "dune",
    "eagle",
    "ember",
    "falcon",
    "fern",
    "ferry",
    "finch",
    "fjord",
    "fox",
    "gannet",
    "glacier",
    "grove",
    "gull",
    "harbour",
    "hawk",
    "hazel",
    "heron",
    "island",
    "jetty",
    "kestrel",
    "lagoon",
    "lark",
    "lighthouse",
    "linden",
    "lynx",
    "maple",
    "marlin",
    "meadow",
    "mole",
    "moose",
    "orca",
    "osprey",
    "otter",
    "pebble",
    "pelican",
    "pine",
    "plover",
    "puffin",
    "quay",
    "raven",
    "reef",
    "robin",
    "rowan",
    "salmon",
    "seal",
    "sparrow",
    "spruce",
    "stork",
    "swan",
    "tern",
    "tide",
    "walrus",
    "whale",
    "willow",
    "wren",
];

/// A name that nobody asked for: `bold_heron`, with a digit from the second `attempt` on.
pub(crate) fn generate(attempt: u64) -> String {
    let pick = |words: &[&'static str]| words[base::rng::below(words.len() as u64) as usize];
    let name = format!("{}_{}", pick(ADJECTIVES), pick(NOUNS));
    if attempt == 0 { name } else { format!("{name}{}", base::rng::below(10 * attempt)) }
}

/// Refuses a name that Docker refuses; strips one leading slash.
pub(crate) fn check(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    if legal(bare) {
        return Ok(bare);
    }
    Err(invalid(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]+`
pub(crate) fn legal(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && name.len() > 1
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// Names and ids of containers.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_name: HashMap<String, String>,
    ids: std::collections::BTreeSet<String>,
}

impl Names {
    /// Claims `name` for the container `id`.
    pub(crate) fn claim(&mut self, name: &str, id: &str) -> Result<()> {
        if let Some(owner) = self.by_name.get(name) {
            return Err(conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". \
                 You have to remove (or rename) that container to be able to reuse that name."
            )));
        }
        self.by_name.insert(name.to_owned(), id.to_owned());
        self.ids.insert(id.to_owned());
        Ok(())
    }

    /// Claims a name nobody uses.
    pub(crate) fn generate(&mut self, id: &str) -> String {
        for attempt in 0.. {
            let name = generate(attempt);
            if self.claim(&name, id).is_ok() {
                return name;
            }
        }
        unreachable!("the loop above has no end")
    }

    /// The name of a container.
    pub(crate) fn name_of(&self, id: &str) -> Option<String> {
        self.by_name.iter().find(|(_, owner)| *owner == id).map(|(name, _)| name.clone())
    }

    /// Gives the name back.
    pub(crate) fn release(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    /// Forgets the id.
    pub(crate) fn forget(&mut self, id: &str) {
        self.ids.remove(id);
    }

    /// The id that `reference` is, or is the name of (with or without slash).
    pub(crate) fn exact(&self, reference: &str) -> Option<&String> {
        let name = reference.strip_prefix('/').unwrap_or(reference);
        self.ids.get(reference).or_else(|| self.by_name.get(name))
    }

    /// The ids that begin so.
    pub(crate) fn beginning(&self, prefix: &str) -> impl Iterator<Item = &String> {
        self.ids.range(prefix.to_owned()..).take_while(move |id| id.starts_with(prefix))
    }

    /// The id that `reference` means: an id, a name (with or without slash), or a unique prefix of an id.
    pub(crate) fn resolve(&self, reference: &str) -> Result<String> {
        if let Some(id) = self.exact(reference) {
            return Ok(id.clone());
        }
        if reference.is_empty() {
            return Err(invalid("container name or ID must not be empty"));
        }
        let mut found = self.beginning(reference);
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id.clone()),
            (Some(_), Some(_)) => Err(ambiguous(reference)),
            (None, _) => Err(Error::no_container(reference)),
        }
    }
}

/// The error for a prefix of several ids.
pub(crate) fn ambiguous(prefix: &str) -> Error {
    invalid(format!("Multiple IDs found with provided prefix: {prefix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_names() {
        for good in ["ab", "a_b", "a.b-c", "1x", "/web"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "-a", "a/b", "a\nb", "a b", "//ab", "a&"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn references() {
        let mut names = Names::default();
        names.claim("web", "aa11").unwrap();
        names.claim("db", "aa22").unwrap();
        assert!(matches!(names.claim("web", "bb"), Err(Error::Conflict(m)) if m.contains("already in use")));
        assert_eq!(names.resolve("/web").unwrap(), "aa11");
        assert_eq!(names.resolve("aa2").unwrap(), "aa22");
        assert!(matches!(names.resolve("aa"), Err(Error::Invalid(_))));
        assert!(matches!(names.resolve("cc"), Err(Error::NotFound(_))));
        names.release("db");
        names.forget("aa22");
        assert_eq!(names.resolve("aa").unwrap(), "aa11");
    }
}
