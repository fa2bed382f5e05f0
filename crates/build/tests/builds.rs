//! Whole builds on a real store, with a runner that carries out the few commands these tests use.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;
#[path = "common/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use build::{Builder, Options};
use common::tar_of;
use image::ImageStore;
use parking_lot::Mutex;
use world::{Fake, World, tagged, until, world};

const BIG: &str = r#"# a comment
FROM base:1.0
MAINTAINER hello1
LABEL a=b "c d"="e f"
ARG filename=page.html
ENV APP=/opt/app OTHER="x y"
ENV OLD form value
WORKDIR $APP
COPY ${filename} ./
COPY sub/ /data/
ADD a.tar /unpacked/
ADD --chown=nobody:nogroup --chmod=600 page.html /owned.html
RUN echo one > run.txt
RUN ["/bin/sh", "-c", "echo exec form > exec.txt"]
COPY . /ctx/
EXPOSE 80 53/udp
VOLUME ["/data1", "/data2"]
USER nobody
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD true
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["/bin/cat"]
CMD ["run.txt"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_instruction() {
    let Some(w) = world().await else { return };
    let archive = String::from_utf8(tar_of(&[("f", "deep\n")])).unwrap();
    let files = [
        ("Dockerfile", BIG),
        (".dockerignore", "ignored.txt\n"),
        ("page.html", "page\n"),
        ("ignored.txt", "secret"),
        ("sub/f", "deep\n"),
        ("a.tar", archive.as_str()),
    ];
    let (id, text) = w.build(&files, tagged("app")).await;
    let id = id.unwrap();
    assert!(text.contains("Step 2/22 : MAINTAINER hello1\n"), "{text}");
    assert!(text.contains("Step 8/22 : COPY ${filename} ./\n"), "{text}");
    assert!(text.contains(" ---> Running in ") && !text.contains("Using cache"), "{text}");
    assert!(
        text.ends_with(&format!("Successfully built {}\nSuccessfully tagged app:latest\n", &id[7..19])),
        "{text}"
    );
    assert_eq!(w.read("app", "/opt/app/page.html").as_deref(), Some("page\n"));
    assert_eq!(w.read("app", "/opt/app/run.txt").as_deref(), Some("one\n"));
    assert_eq!(w.read("app", "/opt/app/exec.txt").as_deref(), Some("exec form\n"));
    assert_eq!(w.read("app", "/data/f").as_deref(), Some("deep\n"));
    assert_eq!(w.read("app", "/unpacked/f").as_deref(), Some("deep\n"));
    assert_eq!(w.read("app", "/ctx/sub/f").as_deref(), Some("deep\n"));
    assert_eq!(w.read("app", "/ctx/ignored.txt"), None);
    assert_eq!(w.owner("app", "/owned.html"), (65534, 65534, 0o600));
    let image = w.images.get("app").unwrap();
    let c = image.run_config();
    assert_eq!(c.env, ["PATH=/bin", "APP=/opt/app", "OTHER=x y", "OLD=form value"]);
    assert_eq!(
        (c.working_dir.as_str(), c.user.as_str(), c.stop_signal.as_str()),
        ("/opt/app", "nobody", "SIGINT")
    );
    assert_eq!(c.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
    assert_eq!(c.volumes.keys().collect::<Vec<_>>(), ["/data1", "/data2"]);
    assert_eq!(
        (c.entrypoint.clone().unwrap(), c.cmd.clone().unwrap()),
        (vec!["/bin/cat".into()], vec!["run.txt".into()])
    );
    assert_eq!(c.labels["c d"], "e f");
    assert_eq!(image.config.author, "hello1");
    let history = &image.config.history;
    assert!(
        history.iter().any(|h| h.created_by == "/bin/sh -ec #(nop)  ENTRYPOINT [\"/bin/cat\"]"),
        "{history:?}"
    );
    assert!(
        history.iter().any(|h| h.created_by == "|1 filename=page.html /bin/sh -c echo one > run.txt"),
        "{history:?}"
    );
    let layers = history.iter().filter(|h| !h.empty_layer).count();
    assert_eq!(layers, image.diff_ids().len());
    let first = w.runner.steps.lock()[0].clone();
    assert!(first.env.contains(&"filename=page.html".into()) && first.working_dir == "/opt/app");

    // Again: all from the cache, after a restart too; a changed file is seen.
    let (again, text) = w.build(&files, tagged("app")).await;
    assert_eq!(again.unwrap(), id);
    assert_eq!(text.matches("Using cache").count(), 21, "{text}");
    let builder = Builder::open(w.images.clone(), w.runner.clone(), w.dir.path()).await.unwrap();
    let w = World { builder, ..w };
    assert_eq!(w.build(&files, Options::default()).await.0.unwrap(), id);
    let mut changed = files;
    changed[2].1 = "other\n";
    let (other, text) = w.build(&changed, Options::default()).await;
    assert_ne!(other.unwrap(), id);
    assert_eq!(text.matches("Using cache").count(), 6, "{text}");
    // An ignored file changes nothing.
    let mut changed = files;
    changed[3].1 = "other";
    assert_eq!(w.build(&changed, Options::default()).await.0.unwrap(), id);
    let before = w.runner.steps.lock().len();
    w.build(&files, Options { no_cache: true, ..Options::default() }).await.0.unwrap();
    assert_eq!(w.runner.steps.lock().len(), before + 2);
    // No context and no snapshot remains.
    until("the end of all contexts", async || {
        let mut left = fs::read_dir(w.dir.path().join("build")).unwrap();
        left.all(|e| e.unwrap().file_name().to_string_lossy().starts_with("cache"))
    })
    .await;
    assert!(w.images.snapshot_keys().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_and_triggers() {
    let Some(w) = world().await else { return };
    let multi = "ARG V=1.0\nFROM base:${V} as builder\nRUN echo built > /out\nFROM base:1.0 AS unused\nRUN true\nFROM scratch\nCOPY --from=builder /out /out\nCOPY --from=0 /bin/busybox /bin/cat\nCOPY --from=base:1.0 /etc/passwd /p\nENTRYPOINT [\"/bin/cat\",\"/out\"]\n";
    let (id, text) = w.build(&[("Dockerfile", multi)], tagged("multi")).await;
    id.unwrap();
    assert!(
        text.contains("Step 1/10 : ARG V=1.0\n") && text.contains("Step 6/10 : FROM scratch\n ---> \n"),
        "{text}"
    );
    assert_eq!(w.read("multi", "/out").as_deref(), Some("built\n"));
    assert_eq!(w.read("multi", "/bin/cat").as_deref(), Some("ELF"));
    assert!(w.read("multi", "/p").unwrap().contains("nobody"));
    assert!(w.images.get("multi").unwrap().run_config().cmd.is_none());
    let target = Options { target: "builder".into(), ..tagged("tgt") };
    w.build(&[("Dockerfile", multi)], target).await.0.unwrap();
    assert_eq!(w.read("tgt", "/out").as_deref(), Some("built\n"));

    let files =
        [("Dockerfile", "FROM base:1.0\nONBUILD COPY page.html /from-parent\n"), ("page.html", "page")];
    w.build(&files, tagged("parent")).await.0.unwrap();
    let files = [("Dockerfile", "FROM parent\nCMD cat /from-parent\n"), ("page.html", "page")];
    let (id, text) = w.build(&files, tagged("child")).await;
    id.unwrap();
    assert!(text.contains("# Executing 1 build trigger\n"), "{text}");
    assert_eq!(w.read("child", "/from-parent").as_deref(), Some("page"));
    assert!(w.images.get("child").unwrap().run_config().on_build.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_labels_heredocs_and_quiet() {
    let Some(w) = world().await else { return };
    let args = |pairs: &[(&str, &str)]| -> BTreeMap<String, Option<String>> {
        pairs.iter().map(|(k, v)| (k.to_string(), Some(v.to_string()))).collect()
    };
    let file = "FROM base:1.0\nARG who=x\nARG http_proxy\nRUN echo $who\nCOPY <<EOF <<'RAW' /d/\nhi $who\nEOF\nhi $who\nRAW\nRUN <<S\necho script > /s\nS\n";
    let options = Options {
        build_args: args(&[("who", "me"), ("nope", "1"), ("HTTP_PROXY", "p")]),
        labels: [("k", "v $x \"q\""), ("a", "b")].map(|(k, v)| (k.to_string(), v.to_string())).into(),
        ..tagged("args")
    };
    let (id, text) = w.build(&[("Dockerfile", file)], options).await;
    id.unwrap();
    assert!(text.contains("[Warning] One or more build-args [nope] were not consumed\n"), "{text}");
    let labels = ["Step 7/8 : LABEL a=b\n", "Step 8/8 : LABEL k=v $x \"q\"\n"];
    assert!(labels.iter().all(|step| text.contains(step)), "{text}");
    assert_eq!(w.read("args", "/d/EOF").as_deref(), Some("hi me\n"));
    assert_eq!(w.read("args", "/d/RAW").as_deref(), Some("hi $who\n"));
    let image = w.images.get("args").unwrap();
    assert_eq!(image.run_config().labels["k"], "v $x \"q\"");
    assert!(image.config.history.iter().any(|h| h.created_by == "|1 who=me /bin/sh -c echo $who"));
    let step = w.runner.steps.lock()[0].clone();
    assert!(step.env.contains(&"HTTP_PROXY=p".to_string()) && step.env.contains(&"who=me".to_string()));

    let (id, text) = w
        .build(&[("Dockerfile", "FROM base:1.0\nRUN echo hi")], Options { quiet: true, ..Options::default() })
        .await;
    assert_eq!(text, format!("{}\n", id.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said() {
    let Some(w) = world().await else { return };
    for (file, want) in [
        ("FROM base:1.0\nRUN false\n", "The command '/bin/sh -c false' returned a non-zero code: 1"),
        (
            "FROM base:1.0\nCOPY nothing /\n",
            "COPY failed: file not found in build context or excluded by .dockerignore: stat nothing: file does not exist",
        ),
        ("FROM base:1.0\nCOPY ../x /\n", "COPY failed: forbidden path outside the build context: ../x ()"),
        ("FROM base:1.0\nCOPY n* /\n", "COPY failed: no source files were specified"),
        ("FROM base:1.0\nFLY away\n", "dockerfile parse error on line 2: unknown instruction: FLY"),
        ("FROM base:1.0\nADD a\n", "ADD requires at least two arguments"),
        ("FROM base:1.0\nCOPY --chown=who Dockerfile /\n", "no such user: who"),
        ("FROM base:1.0\nCOPY --from=7 a b\n", "COPY failed: invalid from flag value 7"),
        ("FROM scratch\n", "No image was generated"),
        ("FROM base:1.0\nENV ${x:?}=1\n", "x: is not allowed to be empty"),
        ("FROM Base\n", "must be lowercase"),
    ] {
        let (result, _) = w.build(&[("Dockerfile", file)], Options::default()).await;
        let error = result.expect_err(file);
        assert!(error.contains(want), "{file:?}: {error}");
    }
    let (result, _) = w.build(&[("x", "")], Options::default()).await;
    assert_eq!(result.unwrap_err(), "Cannot locate specified Dockerfile: Dockerfile");
    let (result, _) = w.build(&[("Dockerfile", "FROM base:1.0")], tagged("A")).await;
    assert!(result.unwrap_err().contains("must be lowercase"));
    tokio::time::timeout(std::time::Duration::from_secs(5), async {
        // A failed step's snapshot is discarded in the background.
        while !w.images.snapshot_keys().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_at_once_share_steps_and_the_cache_outlives_images() {
    let Some(w) = world().await else { return };
    let file = "FROM base:1.0\nRUN echo slow > /slow\nRUN echo told\nCOPY f /f\n";
    let files = [("Dockerfile", file), ("f", "x")];
    let both = tokio::join!(w.build(&files, tagged("one")), w.build(&files, tagged("two")));
    let (one, two) = (both.0.0.unwrap(), both.1.0.unwrap());
    assert_eq!(w.runner.steps.lock().len(), 2, "each step ran once");
    assert!(both.0.1.contains("told\n") || both.1.1.contains("told\n"));
    for id in [&one, &two] {
        assert_eq!(w.read(id, "/slow").as_deref(), Some("slow\n"));
    }
    // The images go, the cache stays; it goes when it is asked to.
    for tag in ["one", "two"] {
        w.images.remove(tag, false, true, &|_| None).await.unwrap();
    }
    let (_, text) = w.build(&files, tagged("three")).await;
    assert_eq!(text.matches("Using cache").count(), 3, "{text}");
    w.images.remove("three", false, true, &|_| None).await.unwrap();
    let records = w.builder.cache_records().await.unwrap();
    assert!(records.iter().any(|r| r.description.contains("echo slow") && r.size > 0), "{records:?}");
    let pruned = w.builder.prune(&engine::gc::Rule { all: true, ..Default::default() }).await.unwrap();
    assert!(pruned.bytes > 0 && pruned.records.len() == records.len(), "{pruned:?}");
    assert!(w.builder.cache_records().await.unwrap().is_empty());
    w.build(&files, tagged("four")).await.0.unwrap();
    assert_eq!(w.runner.steps.lock().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn squash_and_parents_and_excludes() {
    let Some(w) = world().await else { return };
    let file = "FROM base:1.0\nRUN echo a > /a\nRUN echo b > /a\nRUN echo c > /c\n";
    w.build(&[("Dockerfile", file)], Options { squash: true, ..tagged("flat") }).await.0.unwrap();
    let image = w.images.get("flat").unwrap();
    assert_eq!(image.diff_ids().len(), 2);
    assert_eq!(image.config.history.iter().filter(|h| !h.empty_layer).count(), 2);
    assert_eq!(
        (w.read("flat", "/a").as_deref(), w.read("flat", "/c").as_deref()),
        (Some("b\n"), Some("c\n"))
    );

    let file = "FROM base:1.0\nCOPY --parents x/y/f x/./y/g /p/\nCOPY --exclude=*.log --link . /all/\nRUN <<S\n#!/bin/sh\necho script\nS\n";
    let files = [("Dockerfile", file), ("x/y/f", "f"), ("x/y/g", "g"), ("k.log", "l"), ("k.txt", "t")];
    w.build(&files, tagged("parts")).await.0.unwrap();
    assert_eq!(w.read("parts", "/p/x/y/f").as_deref(), Some("f"));
    assert_eq!(w.read("parts", "/p/y/g").as_deref(), Some("g"));
    assert_eq!(w.read("parts", "/all/k.txt").as_deref(), Some("t"));
    assert_eq!(w.read("parts", "/all/k.log"), None);
    let step = w.runner.steps.lock().last().unwrap().clone();
    assert_eq!(step.args, ["/dev/pipes/S"]);
    assert!(step.mounts.iter().any(|m| m.destination().ends_with("pipes")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_from_elsewhere_serves_as_cache() {
    let Some(w) = world().await else { return };
    let file = "FROM base:1.0\nRUN echo a > /a\nENV b=c\nCOPY f /f\n";
    let files = [("Dockerfile", file), ("f", "x")];
    let built = w.build(&files, tagged("made")).await.0.unwrap();
    let (archive, far) = (w.dir.path().join("made.tar"), w.dir.path().join("far"));
    w.images
        .save(&["made".into(), "base:1.0".into()], tokio::fs::File::create(&archive).await.unwrap())
        .await
        .unwrap();
    // Another machine, which has the image and no cache.
    let images = ImageStore::open(&far).await.unwrap();
    images.load(tokio::fs::File::open(&archive).await.unwrap(), None).await.unwrap();
    let runner = Arc::new(Fake { images: images.clone(), steps: Mutex::default() });
    let builder = Builder::open(images.clone(), runner.clone(), &far).await.unwrap();
    let there = World { dir: w.dir, images, runner, builder };
    let options = Options { cache_from: vec!["nobody".into(), "made".into()], ..tagged("again") };
    let (id, text) = there.build(&files, options.clone()).await;
    assert_eq!(id.unwrap(), built);
    assert_eq!((text.matches("Using cache").count(), there.runner.steps.lock().len()), (3, 0), "{text}");
    // What differs is done, and all after it.
    let (id, text) = there.build(&[("Dockerfile", file), ("f", "y")], options).await;
    assert_ne!(id.unwrap(), built);
    assert_eq!((text.matches("Using cache").count(), there.runner.steps.lock().len()), (2, 0), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_in_words_and_a_cgroup() {
    let Some(w) = world().await else { return };
    let file = "FROM base:1.0\nCOPY --chmod=u=rwX,go=r d /d/\nCOPY --chmod=+x d/f /x\nRUN true\n";
    let files = [("Dockerfile", file), ("d/f", "x")];
    let options = Options { cgroup_parent: "/builds".into(), ..tagged("modes") };
    w.build(&files, options).await.0.unwrap();
    assert_eq!(w.owner("modes", "/d/f"), (0, 0, 0o644));
    assert_eq!(w.owner("modes", "/x"), (0, 0, 0o755));
    assert_eq!(w.runner.steps.lock()[0].cgroup_parent, "/builds");
    let (wrong, _) =
        w.build(&[("Dockerfile", "FROM base:1.0\nCOPY --chmod=u=z f /\n"), ("f", "")], tagged("no")).await;
    assert!(wrong.unwrap_err().contains("invalid chmod parameter"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_of_a_step() {
    let Some(w) = world().await else { return };
    let file = "FROM base:1.0 AS src\nRUN echo built > /out\nFROM base:1.0\n\
                RUN --mount=type=bind,from=src,source=/out,target=/in --mount=type=cache,target=/root/.cache,id=c \
                --mount=type=tmpfs,target=/scratch --mount=type=bind,source=f,target=/ctx/f true\n";
    let files = [("Dockerfile", file), ("f", "x")];
    w.build(&files, tagged("m")).await.0.unwrap();
    let step = w.runner.steps.lock().iter().find(|s| !s.mounts.is_empty()).unwrap().clone();
    let kinds: Vec<_> = step.mounts.iter().map(|m| m.typ().clone().unwrap_or_default()).collect();
    assert_eq!(kinds, ["bind", "bind", "tmpfs", "bind"]);
    assert!(
        w.builder
            .cache_records()
            .await
            .unwrap()
            .iter()
            .any(|r| r.description.contains("cached mount /root/.cache"))
    );
    // A changed file of a mount makes the step run again, an unchanged one does not.
    let before = w.runner.steps.lock().len();
    w.build(&files, tagged("m")).await.0.unwrap();
    assert_eq!(w.runner.steps.lock().len(), before);
    w.build(&[("Dockerfile", file), ("f", "y")], tagged("m")).await.0.unwrap();
    assert_eq!(w.runner.steps.lock().len(), before + 1);
    let secret = "FROM base:1.0\nRUN --mount=type=secret,id=s,required=true true\n";
    let (result, _) = w.build(&[("Dockerfile", secret)], Options::default()).await;
    assert_eq!(result.unwrap_err(), "secret s: not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_end_within_bounds() {
    let Some(w) = world().await else { return };
    // Each argument twice as long as the one before.
    let mut doubling = String::from("FROM base:1.0\nARG a0=xxxxxxxxxxxxxxxx\n");
    for n in 1..64 {
        doubling.push_str(&format!("ARG a{n}=$a{}$a{}\n", n - 1, n - 1));
    }
    let mut circle = String::from("FROM base:1.0\nARG a=$b\nARG b=$a\nARG a=$b$a\n");
    circle.push_str("RUN true\n");
    let many = format!("FROM base:1.0\n{}", "ENV a=b\n".repeat(10_001));
    let long = format!("FROM base:1.0\n# {}\n", "x".repeat(17 << 20));
    let deep = format!("FROM base:1.0\nENV a={}x{}\n", "${b:-".repeat(100), "}".repeat(100));
    // Few bytes in the file, each a megabyte by its variable: in quotes, in a here-document, in many words.
    let mega = format!("FROM base:1.0\nARG m={}\n", "x".repeat(1 << 19));
    let quoted = format!("{mega}LABEL a=\"{}\"\n", "$m".repeat(10_000));
    let document = format!("{mega}COPY <<E /f\n{}\nE\n", "$m".repeat(10_000));
    let documents = format!("{mega}COPY {} /d/\n{}", "<<E ".repeat(100), "$m\nE\n".repeat(100));
    let words = format!("{mega}COPY {} /d/\n", "$m ".repeat(1000));
    let labels = format!("{mega}LABEL {}\n", (0..1000).map(|n| format!("l{n}=$m ")).collect::<String>());
    let arguments = format!("{mega}ARG {}\n", (0..1000).map(|n| format!("l{n}=$m ")).collect::<String>());
    let over_steps: String = (0..40).map(|n| format!("ENV e{n}=$m\n")).collect();
    let over_steps = format!("{mega}{over_steps}");
    let replaced = format!("{mega}LABEL a=${{m//x/$m}}\n");
    let ports = format!("FROM base:1.0\nEXPOSE {}\n", "1-65535 ".repeat(1000));
    for (file, want) in [
        (&doubling, "longer than 1 MiB"),
        (&many, "more than 10000 instructions"),
        (&long, "Dockerfile is larger than 16 MiB"),
        (&deep, "variables are nested too deeply"),
        (&quoted, "longer than 1 MiB"),
        (&document, "longer than 16 MiB"),
        (&documents, "longer than 32 MiB"),
        (&words, "longer than 32 MiB"),
        (&labels, "more than 8 MiB together"),
        (&arguments, "more than 8 MiB together"),
        (&over_steps, "more than 8 MiB together"),
        (&replaced, "longer than 1 MiB"),
        (&ports, "names more than"),
    ] {
        let (result, _) = w.build(&[("Dockerfile", file)], Options::default()).await;
        let error = result.expect_err(want);
        assert!(error.contains(want), "{error}");
    }
    w.build(&[("Dockerfile", &circle)], Options::default()).await.0.unwrap();
    // Modifiers of a long value take no longer than they must.
    let modified = format!("{mega}LABEL a=${{m%%y*}}${{m//y/z}} b=${{m#*x*x*y}}\n");
    w.build(&[("Dockerfile", &modified)], Options::default()).await.0.unwrap();
}

/// The Docker client packs a context while it sends it: where a file became shorter or longer meanwhile, what comes is cut
/// off, or goes on with what is no header.
#[tokio::test(flavor = "multi_thread")]
async fn contexts_that_change_while_they_are_packed() {
    let Some(w) = world().await else { return };
    let text = "x".repeat(5000);
    let files = [("Dockerfile", "FROM base:1.0\nCOPY f /f\n"), ("f", text.as_str()), ("g", "last")];
    let whole = tar_of(&files);
    let data = whole.windows(100).position(|w| w == &text.as_bytes()[..100]).unwrap();
    let shorter = whole[..data + 3000].to_vec();
    let longer = [&whole[..data + 5000], &[b'x'; 700][..], &whole[data + 5000..]].concat();
    for (tar, want) in [(shorter, "unexpected EOF"), (longer, "invalid tar header")] {
        let (result, _) = w.build_tar(tar, tagged("changing")).await;
        let error = result.expect_err(want);
        assert!(error.contains(want), "{error}");
        assert!(w.images.get("changing").is_err());
        let scratch = fs::read_dir(w.dir.path().join("build")).unwrap();
        let left =
            scratch.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("context-"));
        assert_eq!(left.count(), 0, "{want}");
    }
    w.build_tar(whole, tagged("changing")).await.0.unwrap();
}

/// `RUN --mount=type=bind,source=package.json,target=package.json npm ci`
#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_below_the_working_directory() {
    let Some(w) = world().await else { return };
    let file = "FROM base:1.0\nWORKDIR /app\nRUN --mount=type=bind,source=f,target=f true\n";
    w.build(&[("Dockerfile", file), ("f", "x")], tagged("m")).await.0.unwrap();
    let step = w.runner.steps.lock()[0].clone();
    assert_eq!(step.mounts[0].destination(), std::path::Path::new("/app/f"));
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_with_names_of_files() {
    let Some(w) = world().await else { return };
    let file = "FROM base:1.0\nCOPY <<robots.txt <<humans.txt /d/\nr\nrobots.txt\nh\nhumans.txt\n";
    w.build(&[("Dockerfile", file)], tagged("names")).await.0.unwrap();
    assert_eq!(w.read("names", "/d/robots.txt").as_deref(), Some("r\n"));
    assert_eq!(w.read("names", "/d/humans.txt").as_deref(), Some("h\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_keep_their_here_documents() {
    let Some(w) = world().await else { return };
    let base = "FROM base:1.0\nONBUILD COPY <<a <<-b /d/\none\na\n\ttwo\n\tb\nONBUILD RUN <<EOF\necho x > made.txt\nEOF\n";
    w.build(&[("Dockerfile", base)], tagged("with-triggers")).await.0.unwrap();
    let triggers = w.images.get("with-triggers").unwrap().run_config().on_build.clone();
    assert_eq!(triggers, ["COPY <<a <<-b /d/\none\na\ntwo\nb", "RUN <<EOF\necho x > made.txt\nEOF"]);
    w.build(&[("Dockerfile", "FROM with-triggers\n")], tagged("triggered")).await.0.unwrap();
    assert_eq!(w.read("triggered", "/d/a").as_deref(), Some("one\n"));
    assert_eq!(w.read("triggered", "/d/b").as_deref(), Some("two\n"));
    let ran = w.runner.steps.lock().last().unwrap().args.last().cloned();
    assert_eq!(ran.as_deref(), Some("echo x > made.txt\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_classic_builder_does_every_stage_up_to_the_target() {
    let Some(w) = world().await else { return };
    let file =
        "FROM base:1.0 AS other\nRUN true\nFROM base:1.0 AS last\nRUN echo x\nFROM base:1.0\nRUN false\n";
    let options = Options { target: "last".into(), ..Options::default() };
    let (id, text) = w.build(&[("Dockerfile", file)], options).await;
    id.unwrap();
    assert!(text.contains("Step 2/4 : RUN true") && text.contains("Step 4/4 : RUN echo x"), "{text}");
}
