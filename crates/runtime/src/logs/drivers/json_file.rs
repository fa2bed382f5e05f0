//! `json-file`: one JSON object per line.
//!
//! Unlike Docker's, a log is rotated by default, 5 files of 10 MB, so that it cannot fill the disk; `max-size=-1` takes
//! the limit away.

use super::{Driver, Kind, Options, decimal_size, values};
use crate::{LogFile, LogSpec};

const MAX_SIZE: u64 = 10_000_000;
const MAX_FILES: u32 = 5;

pub(super) const DRIVER: Driver = Driver {
    name: "json-file",
    options: &["max-size", "max-file", "compress"],
    check: |options| limits(options).map(drop),
    kind: Kind::File(|options, asked, attributes| {
        let (max_size, max_files, compress) = limits(options)?;
        let path = asked.folder.join(format!("{}-json.log", asked.container.id));
        Ok(LogSpec::JsonFile(LogFile { path, max_size, max_files, compress, attributes }))
    }),
};

fn limits(options: &Options) -> Result<(Option<u64>, u32, bool), String> {
    let size = match options.get("max-size").map(String::as_str) {
        None => Some(MAX_SIZE),
        Some("-1") => None,
        Some(text) => match decimal_size(text)? {
            0 => return Err("max-size must be a positive number".into()),
            size => Some(size),
        },
    };
    let files = match options.get("max-file") {
        // As Docker's: a size of one's own is that of the only file.
        None if options.contains_key("max-size") => 1,
        None => MAX_FILES,
        Some(text) => match text.parse() {
            Ok(n) if n >= 1 => n,
            Ok(_) => return Err("max-file cannot be less than 1".into()),
            Err(_) => return Err(format!("invalid log opt max-file: {text:?} is no number")),
        },
    };
    let compress = options.get("compress").map(|text| values::boolean(text)).transpose()?.unwrap_or(false);
    if compress && (files < 2 || size.is_none()) {
        return Err("compress cannot be true when max-file is less than 2 or max-size is not set".into());
    }
    Ok((size, files, compress))
}
