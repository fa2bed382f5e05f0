//! Indexed Jobs: each pod has a number, and each number is to succeed once.

use std::collections::BTreeSet;
use std::fmt;

use api::Value;
use serde_json::json;

use super::INDEX;

/// A set of indexes, written as `1,3-5,7`.
#[derive(Debug, Default)]
pub(super) struct Indexes(BTreeSet<i64>);

impl Indexes {
    pub(super) fn parse(text: &str) -> Self {
        let mut set = BTreeSet::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(from), Ok(to)) = (from.parse::<i64>(), to.parse::<i64>()) {
                set.extend(from..=to);
            }
        }
        Self(set)
    }

    pub(super) fn insert(&mut self, index: i64) {
        self.0.insert(index);
    }

    pub(super) fn contains(&self, index: i64) -> bool {
        self.0.contains(&index)
    }

    pub(super) fn len(&self) -> i64 {
        self.0.len() as i64
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        for i in &self.0 {
            match ranges.last_mut() {
                Some((_, to)) if *to + 1 == *i => *to = *i,
                _ => ranges.push((*i, *i)),
            }
        }
        for (n, (from, to)) in ranges.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            match to - from {
                0 => write!(f, "{comma}{from}")?,
                // Two in a row are written as two.
                1 => write!(f, "{comma}{from},{to}")?,
                _ => write!(f, "{comma}{from}-{to}")?,
            }
        }
        Ok(())
    }
}

/// Gives a pod its index: in an annotation, a label, its host name and a variable of each container.
pub(super) fn give(pod: &mut Value, job: &str, index: i64) {
    let text = index.to_string();
    pod["metadata"]["annotations"][INDEX] = text.as_str().into();
    pod["metadata"]["labels"][INDEX] = text.as_str().into();
    pod["spec"]["hostname"] = format!("{job}-{index}").into();
    let variable = json!({"name": "JOB_COMPLETION_INDEX",
        "valueFrom": {"fieldRef": {"fieldPath": format!("metadata.labels['{INDEX}']")}}});
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let mut env = container["env"].as_array().cloned().unwrap_or_default();
            if !env.iter().any(|e| e["name"] == "JOB_COMPLETION_INDEX") {
                env.push(variable.clone());
                container["env"] = env.into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        for text in ["", "0", "1,3-5,7", "0,1,5", "0-9"] {
            assert_eq!(Indexes::parse(text).to_string(), text);
        }
        assert_eq!(Indexes::parse("3-5,1").len(), 4);
    }
}
