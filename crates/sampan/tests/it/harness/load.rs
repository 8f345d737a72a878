//! Clients at work beside a test: Clerk writers, each waiting for its reply, and what they know
//! when they are stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use sampan_client::{Clerk, Error};

use super::cluster::{Cluster, clerk};
use super::history::{Register, Tokens, check_tokens, token};

/// How much work there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadOptions {
    /// Writers, each with a Clerk, a session and a register of its own.
    pub(crate) writers: usize,
    /// Keys that the writers append to together.
    pub(crate) logs: usize,
    /// Readers of all registers, by one Clerk each.
    pub(crate) readers: usize,
    /// Writes of one writer, at most.
    pub(crate) writes_max: u64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { writers: 16, logs: 4, readers: 0, writes_max: 20_000 }
    }
}

/// Writers and readers that run until they are stopped.
pub(crate) struct Load {
    options: LoadOptions,
    shared: Arc<Shared>,
    thread: JoinHandle<BTreeMap<usize, Written>>,
}

struct Shared {
    stop: AtomicBool,
    registers: Vec<Register>,
    writes: AtomicU64,
    reads: AtomicU64,
}

/// What one writer knows.
#[derive(Debug, Default)]
struct Written {
    tokens: Tokens,
    /// The numbers of unique keys whose writes were acknowledged.
    keys: Vec<u64>,
    /// Each error, as it was told.
    errors: Vec<String>,
}

impl Load {
    /// Starts it on a thread of its own.
    pub(crate) fn start(cluster: &Cluster, options: LoadOptions) -> Self {
        let registers = (0..options.writers).map(|_| Register::default()).collect();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            registers,
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        });
        let (addresses, of_thread) = (cluster.addresses(), Arc::clone(&shared));
        let thread =
            std::thread::spawn(move || super::block_on(run(addresses, options, of_thread)));
        Self { options, shared, thread }
    }

    /// Writes acknowledged so far.
    pub(crate) fn writes(&self) -> u64 {
        self.shared.writes.load(Ordering::SeqCst)
    }

    /// Reads answered so far.
    pub(crate) fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::SeqCst)
    }

    /// The register of a writer.
    pub(crate) fn register(&self, writer: usize) -> &Register {
        &self.shared.registers[writer]
    }

    /// Its key.
    pub(crate) fn register_key(writer: usize) -> String {
        format!("register:{writer}")
    }

    /// Stops the clients, checks everything they know against what the cluster holds, and returns
    /// the errors they were told.
    pub(crate) fn stop_and_check(self, cluster: &Cluster) -> Vec<String> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let written = self.thread.join().expect("no reader or writer saw a fault");
        super::block_on(check(cluster, self.options, &self.shared, &written)).unwrap();
        written.into_values().flat_map(|written| written.errors).collect()
    }
}

async fn run(
    addresses: Vec<String>,
    options: LoadOptions,
    shared: Arc<Shared>,
) -> BTreeMap<usize, Written> {
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..options.writers {
        let (addresses, shared) = (turned(&addresses, writer), Arc::clone(&shared));
        writers.spawn(async move { (writer, write(writer, addresses, options, &shared).await) });
    }
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..options.readers {
        let (addresses, shared) = (turned(&addresses, reader), Arc::clone(&shared));
        readers.spawn(async move { read(&clerk(addresses).await, &shared).await });
    }
    while let Some(ended) = readers.join_next().await {
        ended.expect("a reader that saw no fault");
    }
    writers.join_all().await.into_iter().collect()
}

/// The same addresses from another one on, so that the clients spread over the nodes.
fn turned(addresses: &[String], by: usize) -> Vec<String> {
    let mut addresses = addresses.to_vec();
    let by = by % addresses.len();
    addresses.rotate_left(by);
    addresses
}

/// Appends, sets a unique key, and counts up a register, in turn.
async fn write(
    writer: usize,
    addresses: Vec<String>,
    options: LoadOptions,
    shared: &Shared,
) -> Written {
    let clerk = clerk(addresses).await;
    let mut written = Written::default();
    let log = format!("log:{}", writer % options.logs);
    for number in 1..=options.writes_max {
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        let result = match number % 3 {
            0 => {
                let result = clerk.append(&log, token(writer, number)).await.map(drop);
                let tokens = &mut written.tokens;
                match &result {
                    Ok(()) => tokens.acknowledged.push(number),
                    Err(error) if error.may_be_applied() => tokens.unknown.push(number),
                    Err(_) => tokens.refused.push(number),
                }
                result
            }
            1 => {
                let result = clerk.set(unique_key(writer, number), number.to_string()).await;
                if result.is_ok() {
                    written.keys.push(number);
                }
                result
            }
            _ => write_register(&clerk, writer, shared).await,
        };
        match result {
            Ok(()) => drop(shared.writes.fetch_add(1, Ordering::SeqCst)),
            Err(error) => written.errors.push(format!("writer {writer}, write {number}: {error}")),
        }
    }
    clerk.close().await;
    written
}

async fn write_register(clerk: &Clerk, writer: usize, shared: &Shared) -> Result<(), Error> {
    let register = &shared.registers[writer];
    let value = register.begin_write();
    clerk.set(Load::register_key(writer), value.to_string()).await?;
    register.acknowledged(value);
    Ok(())
}

fn unique_key(writer: usize, number: u64) -> String {
    format!("unique:{writer}:{number}")
}

/// Reads the registers in turn.
async fn read(clerk: &Clerk, shared: &Shared) {
    for (writer, register) in shared.registers.iter().enumerate().cycle() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let floor = register.floor();
        let value = clerk.get(Load::register_key(writer)).await.expect("a read that is answered");
        register.check_read(floor, number(value.as_deref())).unwrap();
        shared.reads.fetch_add(1, Ordering::SeqCst);
    }
}

/// A register's value; 0 if there is none.
fn number(value: Option<&[u8]>) -> u64 {
    value.map_or(0, |text| std::str::from_utf8(text).unwrap().parse().unwrap())
}

/// Holds what the cluster has against what the clients know.
async fn check(
    cluster: &Cluster,
    options: LoadOptions,
    shared: &Shared,
    written: &BTreeMap<usize, Written>,
) -> Result<(), String> {
    let clerk = cluster.clerk().await;
    for log in 0..options.logs {
        let value = clerk.get(format!("log:{log}")).await.unwrap().unwrap_or_default();
        let of_log = written.iter().filter(|(writer, _)| *writer % options.logs == log);
        let clients = of_log.map(|(writer, written)| (*writer, written.tokens.clone())).collect();
        let value = String::from_utf8_lossy(&value);
        check_tokens(&value, &clients).map_err(|why| format!("log:{log}: {why}"))?;
    }
    for (&writer, written) in written {
        for numbers in written.keys.chunks(500) {
            let keys = numbers.iter().map(|&number| unique_key(writer, number));
            let values = clerk.mget(keys).await.unwrap();
            for (number, value) in numbers.iter().zip(values) {
                if value.as_deref() != Some(number.to_string().as_bytes()) {
                    let key = unique_key(writer, *number);
                    return Err(format!("acknowledged write of {key} is lost: {value:?}"));
                }
            }
        }
        let register = &shared.registers[writer];
        let floor = register.floor();
        let value = clerk.get(Load::register_key(writer)).await.unwrap();
        register.check_read(floor, number(value.as_deref()))?;
    }
    clerk.close().await;
    Ok(())
}
