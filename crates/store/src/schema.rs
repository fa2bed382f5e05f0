//! The embedded store's file: its tables, its format number, and the refusal of files that are something else.
//!
//! `kv` is the log: one row for each change, whose number is the revision. `current` names the newest row of each key
//! that exists. `lease` and `meta` are what their names say.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::{Error, Result};

/// Marks the file as ours in SQLite's header ("TUGs").
const APPLICATION: i64 = 0x5455_4773;
/// The number of the format below. A build reads the format that it writes, and older ones through `migrate`.
const FORMAT: i64 = 1;

const TABLES: &str = "
CREATE TABLE kv (
    rev INTEGER PRIMARY KEY,     -- the revision
    key BLOB NOT NULL,
    value BLOB,                  -- NULL: this change deleted the key
    create_rev INTEGER NOT NULL,
    version INTEGER NOT NULL,
    prev_rev INTEGER NOT NULL    -- the row that this one replaced; 0: the key was not there
);
CREATE INDEX kv_key ON kv (key, rev);
CREATE TABLE current (key BLOB PRIMARY KEY, rev INTEGER NOT NULL, lease INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX current_lease ON current (lease) WHERE lease <> 0;
CREATE TABLE lease (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl_ms INTEGER NOT NULL);
CREATE TABLE meta (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('compacted', 0);
";

impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Self {
        Error::Backend(format!("the embedded store: {e}"))
    }
}

/// Opens the file for its one writer, making it if it is not there.
pub(crate) fn open_writer(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path).map_err(|e| unreadable(path, &e))?;
    tune(&connection, 2048).map_err(|e| unreadable(path, &e))?;
    let (application, format, tables): (i64, i64, i64) = connection
        .query_row(
            "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
                    (SELECT count(*) FROM sqlite_schema)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .map_err(|e| unreadable(path, &e))?;
    if tables == 0 {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id={APPLICATION}; PRAGMA user_version={FORMAT}; COMMIT;"
        ))?;
    } else if application != APPLICATION {
        return Err(wrong(
            path,
            "it is an SQLite file, but not one of Tug's: move it away, or choose another --data-dir",
        ));
    } else if format != FORMAT {
        return Err(wrong(
            path,
            &format!(
                "it is written in format {format}, this build reads format {FORMAT}: use the version of Tug that \
                 wrote it, or choose another --data-dir"
            ),
        ));
    }
    Ok(connection)
}

/// Opens the file, which the writer has made, for reading.
pub(crate) fn open_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    tune(&connection, 512)?;
    Ok(connection)
}

/// `cache` is in KiB: small, because the API server has the objects in memory already.
fn tune(connection: &Connection, cache: u32) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    if !connection.is_readonly("main")? {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
    }
    connection.pragma_update(None, "cache_size", -i64::from(cache))?;
    connection.set_prepared_statement_cache_capacity(32);
    // Otherwise a statement is compiled anew for each value that is bound to a range, to choose a better plan for it:
    // each of ours has one plan.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn wrong(path: &Path, reason: &str) -> Error {
    Error::Format { path: path.display().to_string(), reason: reason.into() }
}

fn unreadable(path: &Path, e: &rusqlite::Error) -> Error {
    match e.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            wrong(path, "it is not an SQLite file: move it away, or choose another --data-dir")
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            wrong(path, &format!("it is damaged ({e}): restore it from a backup"))
        }
        _ => wrong(path, &format!("it cannot be opened: {e}")),
    }
}
