//! The checks.

use std::future::Future;
use std::pin::Pin;

use oci_spec::runtime::LinuxMemory;
use runtime::{Error, ExecErrorKind, Runtime, Status};

use crate::world::World;

type Check = for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        /// Every check and its name.
        pub fn all() -> Vec<(&'static str, Check)> {
            vec![$((stringify!($name), |w| Box::pin($name(w)))),*]
        }
    };
}

checks![echo, exit_codes, bad_commands, environment];

async fn echo(w: &World) {
    let spec = w.spec(&["echo", "hello"]);
    let (exit, output) = w.run(&spec).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (0, None, false));
    assert_eq!(output.stdout, "hello\n");
    let state = w.runtime.state(&spec.id).await.unwrap();
    assert_eq!((state.status, state.pid), (Status::Stopped, None));
    assert_eq!(state.exit, Some(exit));
    let log = std::fs::read_to_string(w.log(&spec.id)).unwrap();
    assert!(log.starts_with("{\"log\":\"hello\\n\",\"stream\":\"stdout\",\"time\":\""), "{log}");
}

async fn exit_codes(w: &World) {
    for code in [1, 42, 255] {
        let (exit, _) = w.run(&w.sh(&format!("exit {code}"))).await;
        assert_eq!(exit.code, code);
    }
    let (exit, _) = w.run(&w.sh("sh -c 'kill -9 $$'; exit $?")).await;
    assert_eq!(exit.code, 137);
}

async fn bad_commands(w: &World) {
    for (args, kind, text) in [
        (&["nope"][..], ExecErrorKind::NotFound, "exec: \"nope\": executable file not found in $PATH"),
        (&["/nope"][..], ExecErrorKind::NotFound, "exec: \"/nope\": stat /nope: no such file or directory"),
        (&["/etc"][..], ExecErrorKind::NotExecutable, "exec: \"/etc\": is a directory"),
        (&["/etc/passwd"][..], ExecErrorKind::NotExecutable, "exec: \"/etc/passwd\": permission denied"),
    ] {
        let spec = w.spec(args);
        w.runtime.create(&spec).await.unwrap();
        match w.runtime.start(&spec.id).await {
            Err(Error::Exec { kind: k, message }) => assert_eq!((k, message.as_str()), (kind, text)),
            other => panic!("{other:?}"),
        }
        let exit = w.runtime.wait(&spec.id).await.unwrap();
        assert_eq!(exit.code, if kind == ExecErrorKind::NotFound { 127 } else { 126 });
        assert_eq!(w.runtime.state(&spec.id).await.unwrap().status, Status::Stopped);
    }
}

async fn environment(w: &World) {
    let mut spec = w.sh("echo $A $HOME; pwd; id -u; id -g; id -G");
    let process = spec.oci.process_mut().as_mut().unwrap();
    process.set_env(Some(vec![runtime::defaults::PATH.into(), "A=b".into()]));
    process.set_cwd("/made/for/me".into());
    let mut user = oci_spec::runtime::User::default();
    user.set_username(Some("app".into()));
    process.set_user(user);
    assert_eq!(w.output_of(&spec).await, "b /home/app\n/made/for/me\n1000\n1001\n1001 29\n");
    let _ = LinuxMemory::default();
}
