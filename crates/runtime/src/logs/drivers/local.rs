//! `local`: a compact form of our own host, rotated and compressed; also the copy of what other drivers send.

use std::path::Path;

use super::{Driver, Kind, Options, decimal_size, values};
use crate::{LogFile, LogSpec};

const MAX_SIZE: u64 = 20_000_000;
const MAX_FILES: u32 = 5;

pub(super) const DRIVER: Driver = Driver {
    name: "local",
    options: &["max-size", "max-file", "compress"],
    check: |options| file(options, Path::new(""), Options::new()).map(drop),
    kind: Kind::File(|options, asked, attributes| {
        Ok(LogSpec::Local(file(options, &asked.folder.join("local.log"), attributes)?))
    }),
};

/// The file that the options ask for.
pub(super) fn file(options: &Options, path: &Path, attributes: Options) -> Result<LogFile, String> {
    let max_size = match options.get("max-size") {
        None => MAX_SIZE,
        Some(text) => match decimal_size(text)? {
            0 => return Err("max size should be a positive number".into()),
            size => size,
        },
    };
    let max_files = match options.get("max-file") {
        None => MAX_FILES,
        Some(text) => match text.parse() {
            Ok(n) if n >= 1 => n,
            Ok(_) => return Err("max file count should be a positive number".into()),
            Err(_) => return Err(format!("invalid log opt max-file: {text:?} is no number")),
        },
    };
    let asked = options.get("compress").map(|text| values::boolean(text)).transpose()?;
    if asked == Some(true) && max_files == 1 {
        return Err("compression cannot be enabled when max file count is 1".into());
    }
    let compress = asked.unwrap_or(true) && max_files > 1;
    Ok(LogFile { path: path.to_path_buf(), max_size: Some(max_size), max_files, compress, attributes })
}
