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
