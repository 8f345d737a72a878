//! The generic test of the key/value labs: clients that append and read, while the network is bad,
//! servers are split from one another and all of them restart, three times over.
//!
//! In a fast system the values of the course's clients grow without bound. Here a client whose key
//! holds more than [`VALUE_BYTES_MAX`] reads it, and begins it anew. And what a client reads of the
//! key that only it writes is compared in full with what it must be; the history names it by the
//! write that made it.

use std::cell::Cell;
use std::rc::Rc;

use sampan_lincheck::Action;

use super::clerk::Clerk;
use super::lab::{Lab, Outcome, Setup, ensure, fail};
use super::record::text;
use super::tester::E_MS;

/// A key that holds more bytes than this is begun anew.
const VALUE_BYTES_MAX: usize = 1_024;
/// How long clients work in each iteration, in milliseconds.
const LOAD_MS: u64 = 5_000;
/// The number of the clerk that checks.
const CHECKER: u64 = 1_000_000;

/// What a row of the generic test is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// How many clients.
    pub(crate) clients: usize,
    /// Do all servers crash and restart in each iteration?
    pub(crate) crash: bool,
    /// Are the servers split at random all the time?
    pub(crate) partitions: bool,
    /// Do clients share keys?
    pub(crate) random_keys: bool,
}

impl Load {
    /// So many clients with a key each, and no faults.
    pub(crate) const fn of(clients: usize) -> Self {
        Self { clients, crash: false, partitions: false, random_keys: false }
    }

    /// With crashes and restarts.
    pub(crate) const fn crash(self) -> Self {
        Self { crash: true, ..self }
    }

    /// With partitions.
    pub(crate) const fn partitions(self) -> Self {
        Self { partitions: true, ..self }
    }

    /// On shared keys.
    pub(crate) const fn random_keys(self) -> Self {
        Self { random_keys: true, ..self }
    }
}

/// The row.
pub(crate) async fn generic(lab: Lab, setup: Setup, load: Load) -> Outcome {
    let mut checker = Clerk::new(&lab, CHECKER);
    for iteration in 0..3 {
        let stop = Rc::new(Cell::new(false));
        let clients: Vec<_> = (0..load.clients)
            .map(|number| {
                let client = Client::new(&lab, iteration, number, load, Rc::clone(&stop));
                lab.spawn(client.run())
            })
            .collect();
        let mut partitioner = None;
        if load.partitions {
            lab.sleep_ms(1_000).await;
            partitioner = Some(lab.spawn(split_all_the_time(lab.clone(), Rc::clone(&stop))));
        }
        lab.sleep_ms(LOAD_MS).await;
        stop.set(true);
        if let Some(partitioner) = partitioner {
            partitioner.await;
            lab.connect_all();
            lab.sleep_ms(E_MS).await;
        }
        if load.crash {
            lab.servers().for_each(|server| lab.crash(server));
            lab.sleep_ms(E_MS).await;
            for server in lab.servers() {
                lab.start(server)?;
            }
            lab.connect_all();
        }
        for client in clients {
            client.await?.check(&mut checker, load.random_keys).await?;
        }
        check_sizes(&lab, setup)?;
    }
    lab.state().record.check()
}

/// Each server goes to one of two sides by a coin, again and again.
async fn split_all_the_time(lab: Lab, stop: Rc<Cell<bool>>) {
    while !stop.get() {
        let sides: Vec<bool> = lab.servers().map(|_| lab.chance(500)).collect();
        lab.partition(&sides);
        lab.sleep_ms(E_MS + lab.below(200)).await;
    }
}

/// Logs are short where there are snapshots, and there are none where there must not be.
pub(crate) fn check_sizes(lab: &Lab, setup: Setup) -> Outcome {
    if let Some(max) = setup.raft_state_bytes_max {
        let size = lab.log_size();
        ensure(size <= 8 * max, || format!("a log of {size} bytes, not trimmed to {max}"))
    } else {
        let size = lab.snapshot_size()?;
        ensure(size == 0, || format!("a snapshot of {size} bytes although there are none"))
    }
}

/// One of the clients.
struct Client {
    lab: Lab,
    clerk: Clerk,
    iteration: usize,
    number: usize,
    load: Load,
    stop: Rc<Cell<bool>>,
    /// How many texts it wrote.
    written: usize,
    own: OwnKey,
}

/// The key that only one client writes.
#[derive(Clone, Default)]
struct OwnKey {
    name: String,
    /// What it holds.
    value: String,
    /// How many writes it saw.
    version: usize,
    /// The first text in it.
    first: usize,
}

/// What a client leaves.
struct Left {
    number: usize,
    written: usize,
    own: OwnKey,
    iteration: usize,
}

impl OwnKey {
    /// What the history calls the present value.
    fn version_name(&self, iteration: usize) -> String {
        format!("{}.{iteration}.{}", self.name, self.version)
    }
}

impl Client {
    fn new(lab: &Lab, iteration: usize, number: usize, load: Load, stop: Rc<Cell<bool>>) -> Self {
        let clerk = Clerk::new(lab, (iteration * load.clients + number) as u64);
        let own = OwnKey { name: number.to_string(), ..OwnKey::default() };
        Self { lab: lab.clone(), clerk, iteration, number, load, stop, written: 0, own }
    }

    async fn run(mut self) -> Outcome<Left> {
        if !self.load.random_keys {
            self.begin_anew().await?;
        }
        while !self.stop.get() {
            if self.load.random_keys {
                self.step_on_shared_key().await?;
            } else {
                self.step_on_own_key().await?;
            }
        }
        let Self { number, written, own, iteration, .. } = self;
        Ok(Left { number, written, own, iteration })
    }

    fn next_text(&mut self) -> String {
        let text = format!("x {} {} y", self.number, self.written);
        self.written += 1;
        text
    }

    async fn step_on_shared_key(&mut self) -> Outcome {
        let key = self.lab.below(self.load.clients as u64).to_string();
        if self.lab.chance(500) {
            let text = self.next_text();
            self.clerk.append(&key, &text).await
        } else if self.lab.chance(100) {
            let text = self.next_text();
            self.clerk.put(&key, &text).await
        } else {
            self.clerk.get(&key).await.map(|_| ())
        }
    }

    async fn step_on_own_key(&mut self) -> Outcome {
        if self.own.value.len() > VALUE_BYTES_MAX {
            self.read().await?;
            self.begin_anew().await
        } else if self.lab.chance(500) {
            self.add().await
        } else {
            self.read().await
        }
    }

    async fn begin_anew(&mut self) -> Outcome {
        let span = self.clerk.set(&self.own.name, "").await?;
        self.own.value.clear();
        self.own.first = self.written;
        self.note_write(span);
        Ok(())
    }

    async fn add(&mut self) -> Outcome {
        let added = self.next_text();
        let (length, span) = self.clerk.add(&self.own.name, &added).await?;
        self.own.value.push_str(&added);
        let expected = self.own.value.len() as u64;
        ensure(length == expected, || {
            format!("client {}: {length} bytes after an append, expected {expected}", self.number)
        })?;
        self.note_write(span);
        Ok(())
    }

    fn note_write(&mut self, span: super::record::Span) {
        self.own.version += 1;
        let name = self.own.version_name(self.iteration);
        self.clerk.record(&self.own.name, span, Action::Put { value: &name });
    }

    async fn read(&mut self) -> Outcome {
        read_own(&mut self.clerk, &self.own, self.iteration).await
    }
}

/// Reads a client's key, which must be what the client made it.
async fn read_own(clerk: &mut Clerk, own: &OwnKey, iteration: usize) -> Outcome {
    let (value, span) = clerk.read(&own.name).await?;
    let value = value.unwrap_or_default();
    if value != own.value.as_bytes() {
        let (got, expected) = (text(&value), &own.value);
        return fail(format!("key {} reads {got:?}, expected {expected:?}", own.name));
    }
    let name = own.version_name(iteration);
    clerk.record(&own.name, span, Action::Get { out: Some(Some(&name)) });
    Ok(())
}

impl Left {
    /// The checker reads the client's key; without shared keys each of its texts must be there
    /// once, in order.
    async fn check(&self, checker: &mut Clerk, random_keys: bool) -> Outcome {
        if random_keys {
            return checker.get(&self.number.to_string()).await.map(|_| ());
        }
        read_own(checker, &self.own, self.iteration).await?;
        check_appends(&self.own.value, self.number, self.own.first..self.written)
    }
}

/// Each text of a client is in the value once, and they are in order.
pub(crate) fn check_appends(value: &str, client: usize, texts: std::ops::Range<usize>) -> Outcome {
    let mut after = 0;
    for j in texts {
        let wanted = format!("x {client} {j} y");
        let Some(place) = value.find(&wanted) else {
            return fail(format!("{wanted} is missing in {value}"));
        };
        ensure(value.rfind(&wanted) == Some(place), || format!("{wanted} is there twice"))?;
        ensure(place >= after, || format!("{wanted} is out of order in {value}"))?;
        after = place + wanted.len();
    }
    Ok(())
}
