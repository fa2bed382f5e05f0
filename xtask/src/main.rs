//! Tasks of the project: `cargo xtask tables FACTS...`.
mod tables;

use std::path::{Path, PathBuf};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("tables") => {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
            tables::run(&args.map(PathBuf::from).collect::<Vec<_>>(), root)
        }
        _ => anyhow::bail!("usage: cargo xtask tables FACTS..."),
    }
}
