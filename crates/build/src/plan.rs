//! Stages: what a Dockerfile's stages are, which ones a target needs, and in which order they are built.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::parse::{Dockerfile, Line};
use crate::{mounts, words};

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

/// Arguments with their values, if they have any.
pub(crate) type Args = BTreeMap<String, Option<String>>;

/// The stages and the arguments before the first.
#[derive(Debug)]
pub(crate) struct Plan {
    pub meta: Vec<Line>,
    /// What the arguments before the first stage are.
    pub global: Args,
    pub stages: Vec<Stage>,
    /// Indices of the stages that are needed, in order; the last one is the target.
    pub needed: Vec<usize>,
}

/// Divides a file into stages. `args` gives the arguments that are declared before the first stage their values.
pub(crate) fn plan(file: Dockerfile, target: &str, args: &dyn Fn(&[Line]) -> Result<Args>) -> Result<Plan> {
    let escape = file.escape;
    let mut meta: Vec<Line> = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    let mut global = Args::new();
    for line in file.lines {
        let wrong = |message: String| Error::Parse { line: line.number, message };
        crate::instruction::check(&line, escape).map_err(wrong)?;
        if line.keyword == "FROM" {
            if stages.is_empty() {
                global = args(&meta)?;
            }
            let lookup = |name: &str| global.get(name).cloned().flatten();
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
    wanted[last] = true;
    // A stage needs earlier ones only.
    for i in (0..=last).rev() {
        if wanted[i] {
            needs(&stages, i).for_each(|n| wanted[n] = true);
        }
    }
    let needed = (0..stages.len()).filter(|i| wanted[*i]).collect();
    Ok(Plan { meta, global, stages, needed })
}

/// The stage called `name` (or of that number) before stage `before`; the last one wins, as names may repeat.
pub(crate) fn find(stages: &[Stage], name: &str, before: usize) -> Option<usize> {
    called(&stages[..before], name).or_else(|| name.parse().ok().filter(|i| *i < before))
}

/// The last of these stages that is called `name`.
pub(crate) fn called(stages: &[Stage], name: &str) -> Option<usize> {
    stages.iter().rposition(|s| s.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(name)))
}

/// The stages that stage `i` starts from or takes files of.
fn needs(stages: &[Stage], i: usize) -> impl Iterator<Item = usize> {
    called(&stages[..i], &stages[i].base).into_iter().chain(sources(stages, i, 0))
}

/// The stages that lines of stage `i`, from `line` on, take files of.
pub(crate) fn sources(stages: &[Stage], i: usize, line: usize) -> impl Iterator<Item = usize> {
    let lines = stages[i].lines.get(line..).unwrap_or_default();
    lines.iter().flat_map(|l| &l.flags).filter_map(move |(name, value)| match (name.as_str(), value) {
        ("from", Some(v)) => find(stages, v, i),
        ("mount", Some(v)) => mounts::said(v, "from").and_then(|name| find(stages, name, i)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(text: &str, target: &str) -> Result<Vec<usize>> {
        Ok(plan(crate::parse::parse(text)?, target, &|_| Ok(Args::new()))?.needed)
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

    #[test]
    fn ten_thousand_stages_in_a_row() {
        let mut text = "FROM x AS s0\n".to_string();
        for i in 1..10_000 {
            text.push_str(&format!("FROM s{} AS s{i}\n", i - 1));
        }
        // As deep as it is long it must not go: a worker of the runtime has a stack of two megabytes.
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        let count = thread.spawn(move || needed(&text, "").map(|n| n.len())).unwrap().join().unwrap();
        assert_eq!(count.unwrap(), 10_000);
    }

    #[test]
    fn arguments_that_double() {
        let mut text = "ARG A0=0123456789abcdef\n".to_string();
        for i in 1..40 {
            text.push_str(&format!("ARG A{i}=$A{0}$A{0}\n", i - 1));
        }
        let args = |meta: &[Line]| crate::job::meta_args(meta, '\\', &BTreeMap::new(), &BTreeMap::new());
        let e = plan(crate::parse::parse(&(text + "FROM x")).unwrap(), "", &args).unwrap_err().to_string();
        assert!(e.contains("longer than 1 MiB"), "{e}");
        // Many that are long by one.
        let mut text = format!("ARG A={}\nARG", "x".repeat(1 << 19));
        (0..100).for_each(|i| text.push_str(&format!(" B{i}=$A")));
        let e = plan(crate::parse::parse(&(text + "\nFROM x")).unwrap(), "", &args).unwrap_err().to_string();
        assert!(e.contains("more than 8 MiB together"), "{e}");
        let only = plan(crate::parse::parse("ARG T=1\nARG U=${T}2\nFROM a:$U").unwrap(), "", &args).unwrap();
        assert_eq!(only.stages[0].base, "a:12");
    }
}
