//! Real containers on busybox, as root. The test binary is its own shim: `ShimRuntime` re-executes it with `shim`, so
//! there is no test harness, only a list of checks. Each has a run folder, a cgroup and a root of its own.

// The lint exempts what is compiled with the test harness only.
#![allow(clippy::unwrap_used)]

mod checks;
mod world;

use futures::FutureExt;

fn main() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|a| a == "shim") {
        runtime::shim::main(args.collect());
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if std::env::args().any(|a| a == "--list") {
        for (name, _) in checks::all() {
            println!("{name}: test");
        }
        return;
    }
    if let Some(reason) = world::lacking() {
        println!("skipped: {reason}");
        return;
    }
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut failed = Vec::new();
    let (mut passed, mut left_out) = (0, 0);
    for (name, check) in checks::all() {
        if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w.as_str())) {
            left_out += 1;
            continue;
        }
        let world = world::World::new(name, tokio.handle());
        let (result, took) = tokio.block_on(async {
            let began = tokio::time::Instant::now();
            let run = tokio::time::timeout(world::patience(180), check(&world));
            let result = std::panic::AssertUnwindSafe(run).catch_unwind().await;
            let took = began.elapsed();
            world.clean().await;
            (result, took)
        });
        match result {
            Ok(Ok(())) => {
                println!("{name} ... ok ({took:.1?})");
                passed += 1;
            }
            Ok(Err(_)) => {
                println!("{name} ... FAILED: it took longer than {took:.0?}");
                failed.push(name);
            }
            Err(_) => {
                println!("{name} ... FAILED");
                failed.push(name);
            }
        }
    }
    // Groups that a check has left when it failed.
    if let Err(e) = sys::cgroup::remove_tree(&world::cgroup()) {
        println!("{}: {e}", world::cgroup());
        failed.push("cleaning up");
    }
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; 0 ignored; 0 measured; {left_out} filtered out",
        failed.len()
    );
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
        std::process::exit(1);
    }
}
