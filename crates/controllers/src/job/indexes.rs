//! Indexed Jobs: each pod has a number, and each number is to succeed once.

use std::collections::BTreeMap;
use std::fmt;

use api::Value;
use serde_json::json;

use super::INDEX;

/// A set of indexes, written as `1,3-5,7`. Kept as ranges (first to last), because a text may name any number of them.
#[derive(Debug, Default)]
pub(super) struct Indexes(BTreeMap<i64, i64>);

impl Indexes {
    pub(super) fn parse(text: &str) -> Self {
        let mut set = Self::default();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(from), Ok(to)) = (from.parse::<i64>(), to.parse::<i64>())
                && 0 <= from
                && from <= to
            {
                set.add(from, to);
            }
        }
        set
    }

    /// Joins a range with those that it meets.
    fn add(&mut self, mut from: i64, mut to: i64) {
        while let Some((first, last)) = self.0.range(..=to.saturating_add(1)).next_back() {
            let (first, last) = (*first, *last);
            if last < from.saturating_sub(1) {
                break;
            }
            self.0.remove(&first);
            (from, to) = (from.min(first), to.max(last));
        }
        self.0.insert(from, to);
    }

    pub(super) fn insert(&mut self, index: i64) {
        self.add(index, index);
    }

    pub(super) fn contains(&self, index: i64) -> bool {
        self.0.range(..=index).next_back().is_some_and(|(_, to)| index <= *to)
    }

    pub(super) fn len(&self) -> i64 {
        self.0.iter().fold(0i64, |sum, (from, to)| sum.saturating_add(to - from).saturating_add(1))
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (from, to)) in self.0.iter().enumerate() {
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
        assert_eq!(Indexes::parse("7,3-5,4-6,1,0,x,9-8,-2").to_string(), "0,1,3-7");
        // A status may say anything; it costs what it is long, not what it means.
        let all = Indexes::parse("0-9223372036854775807,5");
        assert_eq!((all.to_string().as_str(), all.len()), ("0-9223372036854775807", i64::MAX));
        let mut some = Indexes::default();
        [4, 2, 3, 9, 0].into_iter().for_each(|i| some.insert(i));
        assert_eq!((some.to_string().as_str(), some.len()), ("0,2-4,9", 5));
        assert!(some.contains(3) && !some.contains(1) && !some.contains(5) && !some.contains(-1));
    }
}
