//! The process that is the parent of one container.

/// What `tug shim …` runs, with the arguments after `shim`. Never returns; must be called before any thread exists.
pub fn main(args: Vec<std::ffi::OsString>) -> ! {
    let _ = args;
    std::process::exit(1)
}
