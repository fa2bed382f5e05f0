//! The unmodified docker client against the engine.

use crate::support::{Engine, which};

fn text(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn run_exec_logs() {
    skip_if_lacking!();
    if which("docker").is_none() {
        println!("skipped: needs the docker client (Debian: apt-get install docker-cli)");
        return;
    }
    let engine = Engine::start();
    let docker = |arguments: &[&str]| {
        let output = engine.docker(arguments);
        (output.status.code().unwrap_or(-1), text(&output))
    };
    assert_eq!(docker(&["run", "--rm", "busybox:test", "echo", "hello"]), (0, "hello\n".into()));
    assert_eq!(docker(&["run", "--rm", "busybox:test", "sh", "-c", "exit 7"]).0, 7);
    assert_eq!(docker(&["run", "--rm", "busybox:test", "nope"]).0, 127);
    assert_eq!(docker(&["run", "--rm", "busybox:test", "/etc"]).0, 126);
    assert_eq!(docker(&["run", "--rm", "--memory=1", "busybox:test", "true"]).0, 125);
    assert_eq!(docker(&["ps", "-aq"]), (0, String::new()), "--rm leaves nothing");

    assert_eq!(
        docker(&["run", "-d", "--name", "web", "busybox:test", "sh", "-c", "echo up; sleep 1000"]).0,
        0
    );
    assert_eq!(docker(&["exec", "-u", "nobody", "web", "id", "-u"]), (0, "65534\n".into()));
    assert_eq!(docker(&["exec", "web", "sh", "-c", "exit 3"]).0, 3);
    assert_eq!(docker(&["exec", "web", "nope"]).0, 127);
    assert_eq!(docker(&["logs", "web"]), (0, "up\n".into()));
    let (code, message) = docker(&["rm", "web"]);
    assert!(code != 0 && message.contains("container is running"), "{message}");
    assert_eq!(docker(&["stop", "-t", "0", "web"]), (0, "web\n".into()));
    assert_eq!(docker(&["wait", "web"]), (0, "137\n".into()));
    let (_, state) = docker(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
    assert_eq!(state, "web exited\n");
    assert_eq!(
        docker(&["run", "-d", "--name", "again", "--restart", "on-failure:2", "busybox:test", "false"]).0,
        0
    );
    // Waiting ends with each end; the third is the last.
    while docker(&["inspect", "-f", "{{.State.Status}}", "again"]).1 != "exited\n" {
        assert_eq!(docker(&["wait", "again"]), (0, "1\n".into()));
    }
    assert_eq!(docker(&["inspect", "-f", "{{.RestartCount}}", "again"]), (0, "2\n".into()));
}

/// The client's BuildKit plugin, with the plain client's fallback to the classic builder beside it.
#[test]
fn builds_with_buildx() {
    skip_if_lacking!();
    let plugin = std::process::Command::new("docker").args(["buildx", "version"]).output();
    if !plugin.is_ok_and(|o| o.status.success()) {
        println!(
            "skipped: needs the docker client and its plugin buildx (Debian: apt-get install docker-buildx)"
        );
        return;
    }
    let engine = Engine::start();
    let docker = |arguments: &[&str]| {
        let output = engine.docker(arguments);
        (output.status.code().unwrap_or(-1), text(&output))
    };
    let dir = engine.path().join("project");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join("sub/f"), "file\n").unwrap();
    std::fs::write(dir.join("token"), "hush").unwrap();
    std::fs::write(dir.join(".dockerignore"), "token\n").unwrap();
    let file = "FROM busybox:test AS one\nRUN echo made > /made\nFROM busybox:test\nARG who=x\n\
                COPY --from=one /made /made\nCOPY . /ctx/\n\
                RUN --mount=type=secret,id=tok test \"$(cat /run/secrets/tok)\" = hush\n\
                RUN echo for $who\nCMD [\"cat\", \"/made\", \"/ctx/sub/f\"]\n";
    std::fs::write(dir.join("Dockerfile"), file).unwrap();
    let at = dir.to_str().unwrap();
    let secret = format!("id=tok,src={at}/token");
    let build = [
        "buildx",
        "build",
        "--progress=plain",
        "--secret",
        &secret,
        "--build-arg",
        "who=me",
        "-t",
        "app",
        at,
    ];
    let (code, said) = docker(&build);
    assert_eq!(code, 0, "{said}");
    for want in
        ["[one 2/2] RUN echo made > /made", "for me", "exporting to image", "naming to docker.io/library/app"]
    {
        assert!(said.contains(want), "{want} is not in {said}");
    }
    assert_eq!(docker(&["run", "--rm", "app"]), (0, "made\nfile\n".into()));
    assert_eq!(docker(&["run", "--rm", "app", "ls", "/ctx/token"]).0, 1);
    let (code, said) = docker(&build);
    assert!(code == 0 && said.matches("CACHED").count() >= 5, "{said}");
    let out = engine.path().join("out");
    let dest = format!("type=local,dest={}", out.display());
    let (code, said) = docker(&["buildx", "build", "--target", "one", "-o", &dest, at]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(std::fs::read_to_string(out.join("made")).unwrap(), "made\n");
    std::fs::write(dir.join("Dockerfile"), "FROM busybox:test\nRUN false\n").unwrap();
    let (code, said) = docker(&["buildx", "build", "--progress=plain", at]);
    assert!(code != 0 && said.contains(">>> RUN false") && said.contains("exit code: 1"), "{said}");
    let (code, said) = docker(&["buildx", "du"]);
    assert!(code == 0 && said.contains("Total:"), "{said}");
}
