//! What fuzz targets call: the parsers of what strangers send, each with what is done with the result.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use image::Config;
use prost::Message;
use tokio::io::AsyncWriteExt;

use crate::buildkit::fuzz as buildkit;
use crate::instruction::{self, Command};
use crate::{job, mounts, parse, pattern, plan, remote, words};

/// A Dockerfile: parsed, divided into stages, and its configuration made of it.
pub fn dockerfile(text: &str) {
    let Ok(file) = parse::parse(text) else { return };
    let escape = file.escape;
    let automatic = BTreeMap::from([("TARGETARCH".to_string(), "amd64".to_string())]);
    let args = |meta: &[parse::Line]| job::meta_args(meta, escape, &BTreeMap::new(), &automatic);
    let Ok(plan) = plan::plan(file, "", &args) else { return };
    assert!(plan.needed.last() == Some(&(plan.stages.len() - 1)), "the last stage is the target");
    for stage in &plan.stages {
        let (mut config, mut declared, mut cmd_set) = (Config::default(), BTreeMap::new(), false);
        for line in &stage.lines {
            let before = config.env.clone();
            let known = declared.clone();
            let lookup = |name: &str| {
                let set = before.iter().filter_map(|e| e.split_once('='));
                let set = set.filter(|(n, _)| *n == name).map(|(_, v)| v.to_string()).next_back();
                set.or_else(|| known.get(name).cloned())
            };
            let expand = |word: &str| words::expand(word, escape, &lookup);
            match line.keyword {
                "ARG" => {
                    for word in words::split(&line.arguments, escape) {
                        let (name, value) = word.split_once('=').unwrap_or((&word, ""));
                        if let (Ok(name), Ok(value)) = (expand(name), expand(value)) {
                            declared.insert(name, value);
                        }
                    }
                }
                "RUN" => {
                    let _ = Command::parse(&line.arguments);
                    let wrong = |e: String| crate::Error::Invalid(e);
                    let _ = mounts::parse(line, "/", |word| expand(word).map_err(wrong));
                }
                "ADD" | "COPY" => {
                    for word in instruction::sources(line, escape).map(|(all, _)| all).unwrap_or_default() {
                        let _ = expand(&word).map(|word| remote::Git::parse(&word));
                    }
                    for heredoc in &line.heredocs {
                        let _ = words::expand_text(&heredoc.content, escape, &lookup);
                    }
                }
                _ => {
                    let _ = instruction::apply(&mut config, line, escape, &lookup, &mut cmd_set);
                }
            }
        }
    }
}

/// A `.dockerignore`, and a path that it is asked about behind the last line break; the same as a pattern of `COPY`.
pub fn ignore(text: &str) {
    let (rules, path) = text.rsplit_once('\n').unwrap_or((text, "a/b"));
    if let Ok(ignore) = pattern::Ignore::parse(rules) {
        let _ = ignore.excludes(path);
    }
    let _ = pattern::path(rules, path);
    for front in [true, false] {
        let _ = pattern::trim(path, rules, front, true);
    }
    if let Ok(text) = pattern::replace(path, rules, "", true, 1 << 20) {
        assert!(text.len() <= path.len());
    }
}

/// Messages of BuildKit's clients; the first byte says which.
pub fn message(bytes: &[u8]) {
    let [kind, body @ ..] = bytes else { return };
    buildkit::message(*kind, body);
}

/// What comes on a connection that speaks gRPC.
pub fn grpc(bytes: &[u8]) {
    one_thread(async {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let served = tokio::spawn(buildkit::serve(far));
        // What does not fit is not taken any more because the other side has ended.
        let _ = near.write_all(bytes).await;
        drop(near);
        served.await.expect("serving ends without a panic");
    });
}

/// Files that a client sends over its session, received below `scratch`, an empty folder.
pub fn transfer(bytes: &[u8], scratch: &Path) {
    let (folder, canary) = (scratch.join("folder"), scratch.join("canary"));
    std::fs::create_dir(&folder).and_then(|()| std::fs::write(&canary, "alive")).expect("room for a context");
    let look = || {
        let m = std::fs::symlink_metadata(&canary).expect("the canary");
        let count = std::fs::read_dir(scratch).expect("the folder").count();
        (std::fs::read_to_string(&canary).expect("the canary"), m.modified().ok(), m.permissions(), count)
    };
    let before = look();
    one_thread(buildkit::transfer(bytes.to_vec(), folder.clone()));
    assert_eq!(look(), before, "something outside of the folder has changed");
}

fn one_thread(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work);
}

/// Decodes a message and encodes it again.
pub(crate) fn decoded<M: Message + Default + PartialEq>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let again = message.encode_to_vec();
    assert!(M::decode(again.as_slice()).is_ok_and(|m| m == message), "what is written down means the same");
    Some(message)
}

/// Options as a client gives them.
pub(crate) type Given = HashMap<String, String>;
