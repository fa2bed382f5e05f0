//! Hooks: their order, what they are told, where they run, and what becomes of the container when one fails.

use oci_spec::runtime::{Hook, HookBuilder, Hooks};
use runtime::{ContainerSpec, Error, Runtime};

use super::eventually;
use crate::world::World;

/// A hook that runs a shell script of the machine.
fn hook(script: &str) -> Hook {
    let args: Vec<String> = ["sh", "-c", script].map(String::from).into();
    HookBuilder::default()
        .path("/bin/sh")
        .args(args)
        .env(vec!["PATH=/usr/bin:/bin".into(), "MARK=here".into()])
        .build()
        .unwrap()
}

#[allow(deprecated)] // prestart, which descriptions of devices still name
fn set(spec: &mut ContainerSpec, kind: &str, hook: Hook) {
    let mut hooks = spec.oci.hooks().clone().unwrap_or_default();
    let list = Some(vec![hook]);
    match kind {
        "prestart" => hooks.set_prestart(list),
        "createRuntime" => hooks.set_create_runtime(list),
        "createContainer" => hooks.set_create_container(list),
        "startContainer" => hooks.set_start_container(list),
        "poststart" => hooks.set_poststart(list),
        "poststop" => hooks.set_poststop(list),
        other => panic!("no hook {other}"),
    };
    spec.oci.set_hooks(Some(hooks));
}

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Each is run once, in the order of the specification, with the state on its standard input.
pub async fn hooks_in_order(w: &World) {
    let mut spec = w.sh("ls /made; sleep 0.2");
    let dir = w.dir.path().display().to_string();
    for kind in KINDS {
        let script = match kind {
            // Inside the container, with its programs.
            "startContainer" => format!("cat > /made; test ! -e {dir}"),
            // The container's mounts, the machine's files.
            "createContainer" => format!(
                "cat > {dir}/{kind}; echo {kind} >> {dir}/order; readlink /proc/self/ns/mnt > {dir}/mounts; test -e {dir}/run/containers/{}/rootfs/bin/busybox",
                spec.id
            ),
            _ => format!(
                "cat > {dir}/{kind}; echo {kind} $MARK >> {dir}/order; readlink /proc/self/ns/mnt > {dir}/mounts-{kind}"
            ),
        };
        set(&mut spec, kind, hook(&script));
    }
    spec.oci.set_annotations(Some([("some".to_owned(), "thing".to_owned())].into()));
    assert_eq!(w.output_of(&spec).await, "/made\n");
    w.runtime.delete(&spec.id, false).await.unwrap();
    let read = |name: &str| std::fs::read_to_string(w.dir.path().join(name)).unwrap();
    assert_eq!(
        read("order"),
        "prestart here\ncreateRuntime here\ncreateContainer\npoststart here\npoststop here\n"
    );
    let machine = std::fs::read_link("/proc/self/ns/mnt").unwrap().display().to_string();
    assert_ne!(read("mounts").trim(), machine);
    if crate::world::other_runtime().is_none() {
        assert_eq!(read("mounts-createRuntime").trim(), machine);
    }
    let state = |kind: &str| serde_json::from_str::<serde_json::Value>(&read(kind)).unwrap();
    for (kind, status) in [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ] {
        let state = state(kind);
        assert_eq!(
            (state["id"].as_str(), state["status"].as_str()),
            (Some(&*spec.id), Some(status)),
            "{kind}: {state}"
        );
        assert_eq!(state["annotations"]["some"], "thing", "{kind}");
        assert!(state["bundle"].as_str().unwrap().ends_with(&spec.id), "{kind}");
        assert!(state["ociVersion"].is_string(), "{kind}");
        assert_eq!(state["pid"].as_i64().is_some_and(|p| p > 0), kind != "poststop", "{kind}: {state}");
    }
}

/// One that fails, or takes too long, before the program runs keeps it from running; what it says is told.
pub async fn failing_hooks(w: &World) {
    let gone = w.dir.path().join("gone");
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut spec = w.sh("true");
        set(&mut spec, kind, hook("echo the reason; exit 3"));
        set(&mut spec, "poststop", hook(&format!("echo {kind} >> {}", gone.display())));
        let error = w.runtime.create(&spec).await.unwrap_err().to_string();
        assert!(error.contains("the reason") && error.contains('3'), "{error}");
        assert!(error.contains(kind) || crate::world::other_runtime().is_some(), "{error}");
        w.runtime.delete(&spec.id, true).await.unwrap();
    }
    assert_eq!(std::fs::read_to_string(&gone).unwrap(), "prestart\ncreateRuntime\ncreateContainer\n");

    let mut spec = w.sh("touch /run-though");
    set(&mut spec, "startContainer", hook("echo no; false"));
    w.runtime.create(&spec).await.unwrap();
    let error = w.runtime.start(&spec.id).await.unwrap_err().to_string();
    assert!(error.contains("startContainer") || crate::world::other_runtime().is_some(), "{error}");
    let runtime::Rootfs::Overlay { upper, .. } = &spec.rootfs else { panic!() };
    assert!(!upper.join("run-though").exists());

    let mut spec = w.sh("sleep 100");
    set(&mut spec, "poststart", hook("echo late; false"));
    let created = w.runtime.create(&spec).await.unwrap();
    let error = w.runtime.start(&spec.id).await.unwrap_err().to_string();
    assert!(error.contains("late"), "{error}");
    eventually("the container is killed", || !super::alive(created.pid)).await;

    let mut spec = w.sh("true");
    let mut slow = hook("sleep 100");
    slow.set_timeout(Some(1));
    set(&mut spec, "createRuntime", slow);
    let error = w.runtime.create(&spec).await.unwrap_err().to_string();
    assert!(error.contains("timeout") || crate::world::other_runtime().is_some(), "{error}");
}

/// What cannot be a hook is refused before anything is made.
pub async fn impossible_hooks(w: &World) {
    let mut relative = w.sh("true");
    set(&mut relative, "poststart", HookBuilder::default().path("sh").build().unwrap());
    let mut instant = w.sh("true");
    let mut none = hook("true");
    none.set_timeout(Some(0));
    set(&mut instant, "poststop", none);
    for mut spec in [relative, instant] {
        spec.runtime = None; // another runtime has rules of its own
        let refused = w.runtime.create(&spec).await;
        assert!(matches!(refused, Err(Error::Invalid { field: "oci.hooks", .. })), "{refused:?}");
    }
    let mut empty = w.sh("echo ran");
    empty.oci.set_hooks(Some(Hooks::default()));
    assert_eq!(w.output_of(&empty).await, "ran\n");
}
