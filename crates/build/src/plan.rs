//! Stages: what a Dockerfile's stages are, which ones a target needs, and in which order they are built.

use crate::error::{Error, Result};
use crate::parse::{Dockerfile, Line};
use crate::words;

/// A stage as written.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    /// `AS name`, lower case.
    pub name: Option<String>,
    /// The `FROM` line.
    pub from: Line,
    /// The base with variables resolved.
    pub base: String,
    /// `--platform`, resolved.
    pub platform: Option<String>,
    /// Everything up to the next `FROM`.
    pub lines: Vec<Line>,
}

/// The stages and the arguments before the first.
#[derive(Debug)]
pub(crate) struct Plan {
    pub meta: Vec<Line>,
    pub stages: Vec<Stage>,
    /// Indices of the stages that are needed, in order; the last one is the target.
    pub needed: Vec<usize>,
}

/// Divides a file into stages. `meta_value` resolves a variable in `FROM`, given the declared global arguments.
pub(crate) fn plan(
    file: Dockerfile,
    target: &str,
    args: &dyn Fn(&[Line], &str) -> Option<String>,
) -> Result<Plan> {
    let escape = file.escape;
    let mut meta: Vec<Line> = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    for line in file.lines {
        let wrong = |message: String| Error::Parse { line: line.number, message };
        crate::instruction::check(&line, escape).map_err(wrong)?;
        if line.keyword == "FROM" {
            let lookup = |name: &str| args(&meta, name);
            let expand = |w: &str| words::expand(w, escape, &lookup).map_err(wrong);
            let parts = words::split(&line.arguments, escape);
            let name = match parts.as_slice() {
                [_] => None,
                [_, word, name] if word.eq_ignore_ascii_case("as") => {
                    let lower = name.to_ascii_lowercase();
                    let mut b = lower.bytes();
                    let fits = b.next().is_some_and(|c| c.is_ascii_lowercase())
                        && b.all(|c| {
                            c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_' | b'.')
                        });
                    if !fits {
                        return Err(wrong(format!(
                            "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
                        )));
                    }
                    Some(lower)
                }
                _ => return Err(wrong("FROM requires either one or three arguments".into())),
            };
            let base = expand(&parts[0])?;
            if base.is_empty() {
                return Err(wrong(format!("base name ({}) should not be blank", parts[0])));
            }
            let platform = match line.flags.iter().find(|(n, _)| n == "platform") {
                Some((_, Some(p))) => Some(expand(p)?).filter(|p| !p.is_empty()),
                _ => None,
            };
            stages.push(Stage { name, from: line, base, platform, lines: Vec::new() });
        } else if let Some(stage) = stages.last_mut() {
            stage.lines.push(line);
        } else if line.keyword == "ARG" {
            meta.push(line);
        } else {
            return Err(Error::Invalid(format!(
                "dockerfile parse error on line {}: no build stage in current context",
                line.number
            )));
        }
    }
    if stages.is_empty() {
        return Err(Error::Invalid("no build stage in current context".into()));
    }
    let last = if target.is_empty() {
        stages.len() - 1
    } else {
        find(&stages, target, stages.len())
            .ok_or_else(|| Error::Invalid(format!("target stage {target:?} could not be found")))?
    };
    let mut wanted = vec![false; stages.len()];
    mark(&stages, last, &mut wanted);
    let needed = (0..stages.len()).filter(|i| wanted[*i]).collect();
    Ok(Plan { meta, stages, needed })
}

/// The stage called `name` (or of that number) before stage `before`; the last one wins, as names may repeat.
pub(crate) fn find(stages: &[Stage], name: &str, before: usize) -> Option<usize> {
    let lower = name.to_ascii_lowercase();
    let by_name = stages[..before].iter().rposition(|s| s.name.as_deref() == Some(lower.as_str()));
    by_name.or_else(|| name.parse().ok().filter(|i| *i < before))
}

fn mark(stages: &[Stage], i: usize, wanted: &mut [bool]) {
    if std::mem::replace(&mut wanted[i], true) {
        return;
    }
    let stage = &stages[i];
    let by_base =
        stages[..i].iter().rposition(|s| s.name.as_deref() == Some(stage.base.to_ascii_lowercase().as_str()));
    let from =
        stage.lines.iter().flat_map(|l| &l.flags).filter_map(|(name, value)| match (name.as_str(), value) {
            ("from", Some(v)) => find(stages, v, i),
            ("mount", Some(v)) => {
                v.split(',').find_map(|p| p.strip_prefix("from=")).and_then(|name| find(stages, name, i))
            }
            _ => None,
        });
    for n in by_base.into_iter().chain(from) {
        mark(stages, n, wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(text: &str, target: &str) -> Result<Vec<usize>> {
        Ok(plan(crate::parse::parse(text)?, target, &|_, _| None)?.needed)
    }

    #[test]
    fn only_what_is_needed() {
        let text = "FROM x AS a\nFROM x AS b\nRUN c\nFROM b\nCOPY --from=0 / /\nFROM scratch AS d\nCOPY --from=b / /";
        assert_eq!(needed(text, "").unwrap(), [1, 3]);
        assert_eq!(needed(text, "2").unwrap(), [0, 1, 2]);
        assert_eq!(needed(text, "A").unwrap(), [0]);
        let e = |t: &str, target: &str| needed(t, target).unwrap_err().to_string();
        assert_eq!(e(text, "zz"), "target stage \"zz\" could not be found");
        assert!(e("RUN x", "").contains("no build stage in current context"));
        assert!(e("FROM x as 1a", "").contains("invalid name for build stage"));
        assert_eq!(
            e("FROM x\nCOPY --fly=1 a b", ""),
            "dockerfile parse error on line 2: unknown flag: --fly"
        );
    }
}
