//! The store in one SQLite file: WAL, `synchronous=FULL`, one thread that writes, a few connections that read.
//!
//! Group commit: the writer takes whatever has been asked for since its last commit into one transaction, so that many
//! requests share one fsync; it answers each of them after the commit, never before. Should a commit fail, all of its
//! requests are told so and nothing of them remains.
//!
//! History is compacted by itself: what is older than [`RETENTION`] goes, and sooner than that whatever is more than
//! [`MAX_HISTORY`] revisions ago.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as blocking;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::hub::{self, History, Hub};
use crate::memory::tombstone;
use crate::{
    Error, Event, EventKind, Expect, KeyValue, LeaseId, Op, Range, RangeResult, Result, Store, Txn,
    TxnResult, WatchStream, schema,
};

/// How long a revision stays readable: long enough for any watcher to come back after a restart of its own.
pub const RETENTION: Duration = Duration::from_secs(5 * 60);
/// How many revisions stay readable at most: bounds the file when something writes without end.
pub const MAX_HISTORY: u64 = 50_000;
/// How many requests share one commit at most: bounds how long the first of them waits.
const GROUP: usize = 512;
/// How many reads run at once; each costs a connection with its page cache.
const READERS: usize = 2;

/// Opens the store in the file `path`, making it if it is not there. To be called inside a tokio runtime, which runs its
/// timers; the store closes when the last reference to it goes.
pub fn open(path: &Path) -> Result<Arc<dyn Store>> {
    let lock = lock(path)?;
    let connection = schema::open_writer(path)?;
    let head: u64 = connection.query_row("SELECT ifnull(max(rev), 1) FROM kv", [], |r| r.get(0))?;
    let compacted =
        connection.query_row("SELECT number FROM meta WHERE name = 'compacted'", [], |r| r.get(0))?;
    let leases: Vec<(LeaseId, u64)> = {
        let mut query = connection.prepare("SELECT id, ttl_ms FROM lease")?;
        query.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?
    };
    let (requests, queue) = blocking::channel();
    let hub = Hub::new(head);
    let core = Arc::new(Core {
        path: path.into(),
        readers: Mutex::new(Vec::new()),
        slots: tokio::sync::Semaphore::new(READERS),
        compacted: AtomicU64::new(compacted),
        hub: hub.clone(),
    });
    let writer = Writer { connection, head, hub, core: core.clone(), queue, _lock: lock };
    std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || writer.run())
        .map_err(|e| Error::Backend(format!("the store's writer cannot start: {e}")))?;
    let store = Arc::new(Embedded { core, requests: Arc::new(requests), leases: Arc::default() });
    for (id, ttl) in leases {
        // A lease's time starts anew with the store, as with etcd after a change of its leader.
        store.start_lease(id, Duration::from_millis(ttl));
    }
    tokio::spawn(compact_old(Arc::downgrade(&store)));
    Ok(store)
}

/// Keeps a second process out; the kernel releases the lock when this one ends, however it ends.
fn lock(path: &Path) -> Result<File> {
    let name = path.with_extension("lock");
    let failed = |e: std::io::Error| Error::Backend(format!("{}: {e}", name.display()));
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(&name).map_err(failed)?;
    if let Err(e) = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        if e != rustix::io::Errno::WOULDBLOCK {
            return Err(failed(e.into()));
        }
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        let pid = if pid.trim().is_empty() { "?" } else { pid.trim() };
        return Err(Error::InUse { path: path.display().to_string(), pid: pid.into() });
    }
    let say = |f: &mut File| {
        f.set_len(0)?;
        f.rewind()?;
        write!(f, "{}", std::process::id())
    };
    say(&mut file).map_err(failed)?;
    Ok(file)
}

/// What readers and the writer share.
struct Core {
    path: PathBuf,
    /// Idle read connections.
    readers: Mutex<Vec<Connection>>,
    slots: tokio::sync::Semaphore,
    compacted: AtomicU64,
    hub: Arc<Hub>,
}

impl Core {
    /// Runs `f` on a read connection, in one read transaction, off the async threads.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        f: impl FnOnce(&Core, &Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _slot = self.slots.acquire().await.map_err(|_| Error::Closed)?;
        let core = self.clone();
        let work = move || {
            let idle = core.readers.lock().pop();
            let connection = match idle {
                Some(c) => c,
                None => schema::open_reader(&core.path)?,
            };
            let result = (|| {
                let snapshot = connection.unchecked_transaction()?;
                let result = f(&core, &snapshot);
                snapshot.finish()?;
                result
            })();
            core.readers.lock().push(connection);
            result
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::Backend(format!("a read of the store: {e}")))?
    }
}

enum Command {
    Txn(Txn),
    Compact(u64),
    Grant(Duration),
    Revoke(LeaseId),
}

enum Answer {
    Txn(TxnResult),
    Lease(LeaseId),
    Done,
}

struct Request {
    command: Command,
    answer: oneshot::Sender<Result<Answer>>,
}

struct Writer {
    connection: Connection,
    head: u64,
    hub: Arc<Hub>,
    core: Arc<Core>,
    queue: blocking::Receiver<Request>,
    _lock: File,
}

impl Writer {
    fn run(mut self) {
        let mut group = Vec::new();
        while let Ok(first) = self.queue.recv() {
            group.push(first);
            while group.len() < GROUP {
                match self.queue.try_recv() {
                    Ok(next) => group.push(next),
                    Err(_) => break,
                }
            }
            self.commit(&mut group);
        }
        self.hub.close();
    }

    fn commit(&mut self, group: &mut Vec<Request>) {
        let mut events = Vec::new();
        let mut head = self.head;
        let mut compacted = self.core.compacted.load(Ordering::Acquire);
        let outcome = (|| {
            let tx = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let mut answers = Vec::with_capacity(group.len());
            for request in group.iter() {
                let mut change =
                    Change { tx: &tx, head: &mut head, events: &mut events, compacted: &mut compacted };
                match change.apply(&request.command) {
                    // The disk's errors concern the whole commit; the rest only the one who asked.
                    Err(e @ Error::Backend(_)) => return Err(e),
                    answer => answers.push(answer),
                }
            }
            tx.commit()?;
            Ok(answers)
        })();
        match outcome {
            Ok(answers) => {
                self.head = head;
                self.core.compacted.store(compacted, Ordering::Release);
                if !events.is_empty() {
                    self.hub.publish(head, &events);
                }
                for (request, answer) in group.drain(..).zip(answers) {
                    let _ = request.answer.send(answer); // who asked may have gone: the change stands
                }
            }
            Err(e) => {
                tracing::error!(error = %e, requests = group.len(), "a commit of the store failed");
                for request in group.drain(..) {
                    let _ = request.answer.send(Err(e.clone()));
                }
            }
        }
    }
}

/// One request inside the writer's transaction.
struct Change<'a> {
    tx: &'a Connection,
    head: &'a mut u64,
    events: &'a mut Vec<Event>,
    compacted: &'a mut u64,
}

impl Change<'_> {
    fn apply(&mut self, command: &Command) -> Result<Answer> {
        match command {
            Command::Txn(txn) => self.txn(txn).map(Answer::Txn),
            Command::Compact(revision) => self.compact(*revision).map(|()| Answer::Done),
            Command::Grant(ttl) => {
                let ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX >> 1);
                self.tx.prepare_cached("INSERT INTO lease (ttl_ms) VALUES (?)")?.execute([ms])?;
                Ok(Answer::Lease(self.tx.last_insert_rowid()))
            }
            Command::Revoke(lease) => {
                if self.tx.prepare_cached("DELETE FROM lease WHERE id = ?")?.execute([lease])? == 0 {
                    return Err(Error::LeaseNotFound(*lease));
                }
                let keys: Vec<Vec<u8>> = self
                    .tx
                    .prepare_cached("SELECT key FROM current WHERE lease = ? AND lease <> 0 ORDER BY key")?
                    .query_map([lease], |r| r.get(0))?
                    .collect::<rusqlite::Result<_>>()?;
                for key in keys {
                    if let Some(current) = self.current(&key)? {
                        self.write(&key, None, Some(&current))?;
                    }
                }
                Ok(Answer::Done)
            }
        }
    }

    fn current(&self, key: &[u8]) -> Result<Option<KeyValue>> {
        let mut query = self.tx.prepare_cached(
            "SELECT k.key, k.value, k.create_rev, k.rev, k.version FROM current c JOIN kv k ON k.rev = c.rev WHERE c.key = ?",
        )?;
        Ok(query.query_row([key], key_value).optional()?)
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnResult> {
        let current = self.current(&txn.key)?;
        let succeeded = match txn.expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::ModRevision(r) => current.as_ref().is_some_and(|c| c.mod_revision == r),
        };
        if succeeded {
            match &txn.op {
                Op::Put { value, lease } => {
                    let lease = lease.unwrap_or(0);
                    if lease != 0
                        && !self.tx.prepare_cached("SELECT 1 FROM lease WHERE id = ?")?.exists([lease])?
                    {
                        return Err(Error::LeaseNotFound(lease));
                    }
                    self.write(&txn.key, Some((value, lease)), current.as_ref())?;
                }
                Op::Delete if current.is_some() => self.write(&txn.key, None, current.as_ref())?,
                Op::Delete => {}
            }
        }
        Ok(TxnResult { succeeded, revision: *self.head, current })
    }

    fn write(&mut self, key: &[u8], value: Option<(&Bytes, LeaseId)>, prev: Option<&KeyValue>) -> Result<()> {
        let rev = *self.head + 1;
        let (kind, kv) = match value {
            Some((value, lease)) => {
                self.tx
                    .prepare_cached(
                        "INSERT INTO current VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE SET rev = ?2, lease = ?3",
                    )?
                    .execute(params![key, rev, lease])?;
                let kv = KeyValue {
                    key: key.to_vec(),
                    value: value.clone(),
                    create_revision: prev.map_or(rev, |p| p.create_revision),
                    mod_revision: rev,
                    version: prev.map_or(1, |p| p.version + 1),
                };
                (EventKind::Put, kv)
            }
            None => {
                self.tx.prepare_cached("DELETE FROM current WHERE key = ?")?.execute([key])?;
                (EventKind::Delete, tombstone(key, rev))
            }
        };
        self.tx.prepare_cached("INSERT INTO kv VALUES (?, ?, ?, ?, ?, ?)")?.execute(params![
            rev,
            key,
            value.map(|(v, _)| v.as_ref()),
            kv.create_revision,
            kv.version,
            prev.map_or(0, |p| p.mod_revision),
        ])?;
        *self.head = rev;
        self.events.push(Event { kind, kv, prev: prev.cloned() });
        Ok(())
    }

    fn compact(&mut self, revision: u64) -> Result<()> {
        if revision > *self.head {
            return Err(Error::Future { requested: revision, current: *self.head });
        }
        if revision < *self.compacted {
            return Err(Error::Compacted { requested: revision, compacted: *self.compacted });
        }
        // Each change names the one that it replaced, so only what is new since the last time has to be looked at.
        let span = params![*self.compacted, revision];
        self.tx.execute(
            "DELETE FROM kv WHERE rev IN (SELECT prev_rev FROM kv WHERE rev BETWEEN ? AND ? AND prev_rev <> 0)",
            span,
        )?;
        // The newest row of all stays whatever it is: the counter is read from it when the file is opened.
        self.tx.execute(
            "DELETE FROM kv WHERE rev BETWEEN ? AND ? AND value IS NULL AND rev < (SELECT max(rev) FROM kv)",
            span,
        )?;
        self.tx.execute("UPDATE meta SET number = ? WHERE name = 'compacted'", [revision])?;
        *self.compacted = revision;
        Ok(())
    }
}

/// Reads the columns key, value, create_rev, rev, version.
fn key_value(row: &Row<'_>) -> rusqlite::Result<KeyValue> {
    Ok(KeyValue {
        key: row.get(0)?,
        value: row.get::<_, Option<Vec<u8>>>(1)?.map(Bytes::from).unwrap_or_default(),
        create_revision: row.get(2)?,
        mod_revision: row.get(3)?,
        version: row.get(4)?,
    })
}

struct Embedded {
    core: Arc<Core>,
    /// The writer ends with it: nothing that outlives the store may hold it.
    requests: Arc<blocking::Sender<Request>>,
    /// When each lease expires, and its full time.
    leases: Arc<Mutex<std::collections::HashMap<LeaseId, (Instant, Duration)>>>,
}

impl Embedded {
    async fn ask(&self, command: Command) -> Result<Answer> {
        ask(&self.requests, command).await
    }

    fn start_lease(&self, id: LeaseId, ttl: Duration) {
        self.leases.lock().insert(id, (Instant::now() + ttl, ttl));
        let (leases, requests) = (Arc::downgrade(&self.leases), Arc::downgrade(&self.requests));
        // A timer, because a lease is over when time has passed and nothing has happened.
        let expiry = async move {
            loop {
                let deadline = leases.upgrade().and_then(|l| l.lock().get(&id).map(|(d, _)| *d));
                let Some(deadline) = deadline else { return };
                if deadline > Instant::now() {
                    tokio::time::sleep_until(deadline).await;
                    continue;
                }
                // Held no longer than it is asked.
                let Some(writer) = requests.upgrade() else { return };
                let answer = ask(&writer, Command::Revoke(id)).await;
                drop(writer);
                match answer {
                    Err(e @ Error::Backend(_)) => {
                        tracing::warn!(lease = id, error = %e, "an expired lease cannot be removed; trying again");
                        tokio::time::sleep(Duration::from_secs(1)).await; // the disk may recover
                    }
                    _ => {
                        leases.upgrade().and_then(|l| l.lock().remove(&id));
                        return;
                    }
                }
            }
        };
        tokio::spawn(expiry);
    }
}

async fn ask(requests: &blocking::Sender<Request>, command: Command) -> Result<Answer> {
    let (answer, answered) = oneshot::channel();
    requests.send(Request { command, answer }).map_err(|_| Error::Closed)?;
    answered.await.map_err(|_| Error::Closed)?
}

/// Compacts by age and by number. A timer, because age is what it looks at; nothing is written when nothing has changed.
async fn compact_old(store: std::sync::Weak<Embedded>) {
    const STEP: Duration = Duration::from_secs(60);
    let steps = (RETENTION.as_secs() / STEP.as_secs()) as usize;
    let mut heads = std::collections::VecDeque::new();
    loop {
        tokio::time::sleep(STEP).await;
        let Some(store) = store.upgrade() else { return };
        let head = store.core.hub.head();
        heads.push_back(head);
        let old = if heads.len() > steps { heads.pop_front().unwrap_or(0) } else { 0 };
        let target = old.max(head.saturating_sub(MAX_HISTORY));
        if target > store.core.compacted.load(Ordering::Acquire)
            && let Err(e) = store.compact(target).await
        {
            tracing::warn!(revision = target, error = %e, "compaction failed; the next one makes up for it");
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn range(&self, range: Range) -> Result<RangeResult> {
        self.core.read(move |core, db| read_range(core, db, &range)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult> {
        match self.ask(Command::Txn(txn)).await? {
            Answer::Txn(result) => Ok(result),
            _ => Err(Error::Closed),
        }
    }

    async fn watch(&self, prefix: Vec<u8>, from: u64) -> Result<WatchStream> {
        hub::watch(&self.core.hub, Arc::new(Log(self.core.clone())), prefix, from).await
    }

    async fn revision(&self) -> Result<u64> {
        Ok(self.core.hub.head()) // set between a commit and its answers
    }

    async fn size(&self) -> Result<u64> {
        let size = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
        self.core.read(move |_, db| Ok(db.query_row(size, [], |r| r.get(0))?)).await
    }

    async fn compact(&self, revision: u64) -> Result<()> {
        self.ask(Command::Compact(revision)).await.map(|_| ())
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId> {
        match self.ask(Command::Grant(ttl)).await? {
            Answer::Lease(id) => {
                self.start_lease(id, ttl);
                Ok(id)
            }
            _ => Err(Error::Closed),
        }
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<()> {
        match self.leases.lock().get_mut(&lease) {
            Some((deadline, ttl)) => {
                *deadline = Instant::now() + *ttl;
                Ok(())
            }
            None => Err(Error::LeaseNotFound(lease)),
        }
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<()> {
        self.ask(Command::Revoke(lease)).await?;
        self.leases.lock().remove(&lease);
        Ok(())
    }
}

fn read_range(core: &Core, db: &Connection, r: &Range) -> Result<RangeResult> {
    let head: u64 = db.prepare_cached("SELECT ifnull(max(rev), 1) FROM kv")?.query_row([], |r| r.get(0))?;
    let compacted = core.compacted.load(Ordering::Acquire);
    if r.revision > head {
        return Err(Error::Future { requested: r.revision, current: head });
    }
    if r.revision != 0 && r.revision < compacted {
        return Err(Error::Compacted { requested: r.revision, compacted });
    }
    let (start, end) = bounds(r);
    let at = if r.revision == 0 { head } else { r.revision };
    let value = if r.keys_only { "NULL" } else { "k.value" };
    // SQLite takes the bare columns of a max() from the row that has it.
    let (count, rows) = if at == head {
        let within = "FROM current c WHERE c.key >= ?1 AND c.key < ?2 AND ?3";
        (
            format!("SELECT count(*) {within}"),
            format!(
                "SELECT c.key, {value}, k.create_rev, k.rev, k.version FROM current c JOIN kv k ON k.rev = c.rev
                 WHERE c.key >= ?1 AND c.key < ?2 AND ?3 ORDER BY c.key LIMIT ?4"
            ),
        )
    } else {
        let within = "FROM kv k WHERE k.key >= ?1 AND k.key < ?2 AND k.rev <= ?3 GROUP BY k.key HAVING k.value IS NOT NULL";
        (
            format!("SELECT count(*) FROM (SELECT k.key, k.value, max(k.rev) {within})"),
            format!(
                "SELECT k.key, {value}, k.create_rev, max(k.rev), k.version {within} ORDER BY k.key LIMIT ?4"
            ),
        )
    };
    let mut result = RangeResult { revision: head, ..RangeResult::default() };
    if !r.count_only {
        let limit = if r.limit == 0 { i64::MAX } else { i64::try_from(r.limit).unwrap_or(i64::MAX - 1) + 1 };
        let mut query = db.prepare_cached(&rows)?;
        result.items =
            query.query_map(params![start, end, at, limit], key_value)?.collect::<rusqlite::Result<_>>()?;
        result.more = r.limit != 0 && result.items.len() as u64 > r.limit;
        if result.more {
            result.items.pop();
        }
    }
    result.count = if r.count_only || result.more {
        db.prepare_cached(&count)?.query_row(params![start, end, at], |r| r.get(0))?
    } else {
        result.items.len() as u64
    };
    Ok(result)
}

/// The range as two keys, the second exclusive.
fn bounds(r: &Range) -> (Vec<u8>, Vec<u8>) {
    let end = match r.end.as_slice() {
        [] => [r.start.as_slice(), &[0]].concat(),
        [0] => vec![0xff; 1024], // longer than any key of ours
        end => end.to_vec(),
    };
    (r.start.clone(), end)
}

struct Log(Arc<Core>);

#[async_trait]
impl History for Log {
    async fn history(&self, prefix: &[u8], from: u64, upto: u64, limit: usize) -> Result<Vec<Event>> {
        let (start, end) = bounds(&Range::prefix(prefix));
        let read = move |core: &Core, db: &Connection| {
            // The plus keeps SQLite on the log's own order: it is the revisions that are few.
            let mut query = db.prepare_cached(
                "SELECT k.key, k.value, k.create_rev, k.rev, k.version, p.key, p.value, p.create_rev, p.rev, p.version
                 FROM kv k LEFT JOIN kv p ON p.rev = k.prev_rev
                 WHERE k.rev BETWEEN ? AND ? AND +k.key >= ? AND +k.key < ? ORDER BY k.rev LIMIT ?",
            )?;
            let events = query
                .query_map(params![from, upto, start, end, limit as u64], event)?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            // Looked at after the snapshot was taken: what was compacted since is still in it.
            let compacted: u64 = db
                .prepare_cached("SELECT number FROM meta WHERE name = 'compacted'")?
                .query_row([], |r| r.get(0))?;
            core.compacted.fetch_max(compacted, Ordering::AcqRel);
            if from <= compacted {
                return Err(Error::Compacted { requested: from, compacted });
            }
            Ok(events)
        };
        self.0.read(read).await
    }
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let kv = key_value(row)?;
    let deleted = row.get_ref(1)? == rusqlite::types::ValueRef::Null;
    let prev = match row.get::<_, Option<Vec<u8>>>(5)? {
        Some(key) => Some(KeyValue {
            key,
            value: row.get::<_, Option<Vec<u8>>>(6)?.map(Bytes::from).unwrap_or_default(),
            create_revision: row.get(7)?,
            mod_revision: row.get(8)?,
            version: row.get(9)?,
        }),
        None => None,
    };
    if deleted {
        return Ok(Event { kind: EventKind::Delete, kv: tombstone(&kv.key, kv.mod_revision), prev });
    }
    Ok(Event { kind: EventKind::Put, kv, prev })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    fn put(key: &str, value: &str) -> Txn {
        let op = Op::Put { value: Bytes::copy_from_slice(value.as_bytes()), lease: None };
        Txn { key: key.into(), expect: Expect::Any, op }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn conforms() {
        let dir = tempfile::tempdir().unwrap();
        let n = AtomicU64::new(0);
        let fresh = || open(&dir.path().join(format!("{}.db", n.fetch_add(1, Ordering::Relaxed)))).unwrap();
        crate::conformance::all(fresh).await;
    }

    async fn reopen(path: &Path) -> Arc<dyn Store> {
        let opened = async {
            loop {
                match open(path) {
                    // The writer's thread of the store that was dropped is still on its way out.
                    Err(Error::InUse { .. }) => tokio::task::yield_now().await,
                    other => return other.unwrap(),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), opened).await.expect("nothing holds the store")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_answered_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.db");
        let store = open(&path).unwrap();
        let lease = store.lease_grant(Duration::from_millis(300)).await.unwrap();
        // What waits for the end of a lease does not keep the store open.
        store.lease_grant(Duration::from_secs(3600)).await.unwrap();
        store.txn(put("/a", "1")).await.unwrap();
        let op = Op::Put { value: Bytes::from_static(b"l"), lease: Some(lease) };
        let last = store.txn(Txn { key: b"/l".to_vec(), expect: Expect::Absent, op }).await.unwrap().revision;
        store.txn(Txn { key: b"/a".to_vec(), expect: Expect::Any, op: Op::Delete }).await.unwrap();
        store.compact(last + 1).await.unwrap();
        drop(store);
        let store = reopen(&path).await;
        assert_eq!(store.revision().await.unwrap(), last + 1);
        let all = store.range(Range::prefix("/")).await.unwrap();
        assert_eq!(all.items.iter().map(|i| i.key.as_slice()).collect::<Vec<_>>(), [b"/l"]);
        // The lease lives on, and ends.
        let mut watch = store.watch(b"/".to_vec(), last + 2).await.unwrap();
        let batch = watch.next().await.unwrap().unwrap();
        assert_eq!(
            (batch.events[0].kind, batch.events[0].kv.key.as_slice()),
            (EventKind::Delete, &b"/l"[..])
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn refuses_foreign_files_and_second_openers() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text");
        std::fs::write(&text, "this is certainly not a database, but long enough to look at").unwrap();
        assert!(open(&text).err().unwrap().to_string().contains("not an SQLite file"));
        let other = dir.path().join("other");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(open(&other).err().unwrap().to_string().contains("not one of Tug's"));
        let path = dir.path().join("s.db");
        let store = open(&path).unwrap();
        let busy = open(&path).err().unwrap().to_string();
        assert!(busy.contains(&format!("process {}", std::process::id())), "{busy}");
        drop(store);
        drop(reopen(&path).await);
        let newer = dir.path().join("newer.db");
        drop(reopen(&newer).await);
        Connection::open(&newer).unwrap().execute_batch("PRAGMA user_version=99").unwrap();
        let refused = loop {
            match open(&newer).err().unwrap() {
                Error::InUse { .. } => tokio::task::yield_now().await,
                e => break e.to_string(),
            }
        };
        assert!(refused.contains("format 99") && refused.contains("format 1"), "{refused}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn compaction_leaves_what_is_needed_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.db");
        let store = open(&path).unwrap();
        for i in 0..10 {
            store.txn(put("/a", &i.to_string())).await.unwrap();
            store.txn(put("/gone", "x")).await.unwrap();
            store.txn(Txn { key: b"/gone".to_vec(), expect: Expect::Any, op: Op::Delete }).await.unwrap();
        }
        let head = store.txn(put("/b", "1")).await.unwrap().revision;
        store.compact(head - 15).await.unwrap();
        store.compact(head).await.unwrap();
        let rows: u64 =
            Connection::open(&path).unwrap().query_row("SELECT count(*) FROM kv", [], |r| r.get(0)).unwrap();
        assert_eq!(rows, 2);
        assert_eq!(store.range(Range::prefix("/")).await.unwrap().count, 2);
    }
}
