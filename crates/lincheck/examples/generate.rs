//! Writes the history of a store that is linearizable by construction: overlapping clients, each
//! operation takes effect at one moment between its call and its return, some are never answered.
//!
//! ```text
//! cargo run --release -p sampan-lincheck --example generate -- OUT.jsonl \
//!     [operations=1000000] [clients=64] [keys=500] [unknown=2] [joined=0] [witness=0] [stale=0] [values=0] [mix=0] [seed=1]
//! ```
//! `unknown` and `joined` (operations on two keys) are per thousand. With `witness=1` each
//! operation carries its place in the order. With `stale=1` one read in the last tenth answers what
//! its key held before the last change, after that change had returned. With `values` above 0
//! values are drawn from so many instead of being all different. The mix is 0 for get, put and
//! append, 1 for get and incr, 2 for all of these with del and cas.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};

use sampan_lincheck::{Action, History, Operation, Status, Step, ValueId, Witness};

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: generate OUT.jsonl [name=value]...");
        std::process::exit(2);
    };
    let mut options = Options {
        operations: 1_000_000,
        clients: 64,
        keys: 500,
        unknown: 2,
        joined: 0,
        witness: 0,
        stale: 0,
        values: 0,
        mix: 0,
        seed: 1,
    };
    for argument in arguments {
        let parsed = argument.split_once('=').and_then(|(name, value)| {
            *options.named(name)? = value.parse().ok()?;
            Some(())
        });
        if parsed.is_none() {
            eprintln!("not an option of this program: {argument}");
            std::process::exit(2);
        }
    }
    let history = Store::new(options).run();
    let mut writer = BufWriter::with_capacity(1 << 20, File::create(path)?);
    history.write(&mut writer)?;
    writer.flush()
}

#[derive(Clone, Copy)]
struct Options {
    operations: u64,
    clients: u64,
    keys: u64,
    unknown: u64,
    joined: u64,
    witness: u64,
    stale: u64,
    values: u64,
    mix: u64,
    seed: u64,
}

impl Options {
    fn named(&mut self, name: &str) -> Option<&mut u64> {
        Some(match name {
            "operations" => &mut self.operations,
            "clients" => &mut self.clients,
            "keys" => &mut self.keys,
            "unknown" => &mut self.unknown,
            "joined" => &mut self.joined,
            "witness" => &mut self.witness,
            "stale" => &mut self.stale,
            "mix" => &mut self.mix,
            "values" => &mut self.values,
            "seed" => &mut self.seed,
            _ => return None,
        })
    }
}

/// One operation under way.
struct Call {
    client: u64,
    called_ns: u64,
    /// None: never answered.
    return_ns: Option<u64>,
    /// It takes effect; one that is not answered may not.
    applies: bool,
    keys: Vec<u64>,
    kind: u64,
    unique: u64,
}

/// What a key holds, held before its last change, and when that change had returned.
#[derive(Default, Clone)]
struct Cell {
    now: Option<String>,
    before: Option<String>,
    changed_ns: u64,
}

struct Store {
    options: Options,
    random: u64,
    history: History,
    cells: HashMap<u64, Cell>,
    /// Calls by the moment at which they take effect.
    pending: BinaryHeap<Reverse<(u64, u64)>>,
    calls: HashMap<u64, Call>,
    called: u64,
    applied: u64,
    stale_left: u64,
}

impl Store {
    fn new(options: Options) -> Self {
        Self {
            options,
            random: options.seed,
            history: History::new(),
            cells: HashMap::new(),
            pending: BinaryHeap::new(),
            calls: HashMap::new(),
            called: 0,
            applied: 0,
            stale_left: options.stale,
        }
    }

    fn run(mut self) -> History {
        for client in 0..self.options.clients {
            let start_ns = self.below(1_000_000);
            self.call(client, start_ns);
        }
        while let Some(Reverse((now_ns, id))) = self.pending.pop() {
            let call = self.calls.remove(&id).expect("what is pending was called");
            self.apply(&call);
            let (client, from_ns) = match call.return_ns {
                Some(return_ns) => (call.client, return_ns),
                // A client that waits no longer comes back under another name.
                None => (call.client + self.options.clients, now_ns),
            };
            if self.called < self.options.operations {
                let pause_ns = self.below(200_000);
                self.call(client, from_ns + pause_ns);
            }
        }
        self.history
    }

    fn call(&mut self, client: u64, call_ns: u64) {
        let point_ns = call_ns + 20_000 + self.below(500_000);
        let answered = self.below(1_000) >= self.options.unknown;
        let return_ns = point_ns + 20_000 + self.below(500_000);
        let mut keys = vec![self.below(self.options.keys)];
        if self.below(1_000) < self.options.joined {
            keys.push(self.below(self.options.keys));
        }
        let call = Call {
            client,
            called_ns: call_ns,
            return_ns: answered.then_some(return_ns),
            applies: answered || self.below(2) == 0,
            keys,
            kind: self.below(10),
            unique: self.called,
        };
        // What was given up may take effect much later.
        let late_ns = if answered { 0 } else { self.below(100_000_000) };
        self.pending.push(Reverse((point_ns + late_ns, self.called)));
        self.calls.insert(self.called, call);
        self.called += 1;
    }

    /// The moment at which a call takes effect; it is recorded as it will have been seen.
    fn apply(&mut self, call: &Call) {
        self.applied += 1;
        let mut steps = Vec::new();
        for (place, &key) in call.keys.iter().enumerate() {
            let wish = self.wish(call, place, key);
            let in_last_tenth = self.applied > self.options.operations / 10 * 9;
            let cell = self.cells.entry(key).or_default();
            let before = cell.now.clone();
            let is_stale = self.stale_left > 0
                && in_last_tenth
                && matches!(wish, Action::Get { .. })
                && cell.changed_ns < call.called_ns
                && cell.before != cell.now;
            let done = if is_stale {
                self.stale_left -= 1;
                Action::Get { out: Some(cell.before.clone()) }
            } else if call.applies {
                // What would be refused a careful client does not ask for: it reads.
                effect(wish, cell).unwrap_or(Action::Get { out: Some(before.clone()) })
            } else {
                wish
            };
            if cell.now != before {
                cell.before = before;
                cell.changed_ns = call.return_ns.unwrap_or(u64::MAX);
            }
            let key = self.history.key(&format!("key{key}"));
            steps.push(Step { key, action: intern(&mut self.history, done) });
        }
        let witness = Witness { index: self.applied, sub: 0 };
        let operation = Operation {
            client: call.client,
            call_ns: call.called_ns,
            return_ns: call.return_ns,
            status: if call.return_ns.is_some() { Status::Ok } else { Status::Unknown },
            witness: (self.options.witness > 0 && call.applies).then_some(witness),
        };
        self.history.push(operation, &steps);
    }

    /// What a call wants of one of its keys, with nothing observed.
    fn wish(&self, call: &Call, place: usize, key: u64) -> Action<String> {
        const LONG_BYTES: usize = 300;
        let number = match self.options.values {
            0 => call.unique,
            values => call.unique * 7919 % values,
        };
        let value = format!("{number}.{place};");
        let held = self.cells.get(&key).and_then(|cell| cell.now.as_ref());
        let delta = 1 + (call.unique % 2) as i64;
        match (self.options.mix, call.kind) {
            (_, 0..=3) | (0, 4) => Action::Get { out: None },
            (1, _) | (2, 4) => Action::Incr { delta, out: None },
            (2, 5) => Action::Del { out: None },
            (2, 6) => Action::Cas { expect: held.cloned(), value, out: None },
            (_, 5 | 6) => Action::Put { value },
            _ if held.is_some_and(|text| text.len() > LONG_BYTES) => Action::Put { value },
            _ => Action::Append { value, out: None },
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = (self.random ^ self.random >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ word >> 31) % end
    }
}

/// Applies an action and gives it with what it observed; None: it is refused and does nothing.
fn effect(action: Action<String>, cell: &mut Cell) -> Option<Action<String>> {
    Some(match action {
        Action::Get { .. } => Action::Get { out: Some(cell.now.clone()) },
        Action::Put { value } => {
            cell.now = Some(value.clone());
            Action::Put { value }
        }
        Action::Append { value, out } => {
            cell.now.get_or_insert_default().push_str(&value);
            Action::Append { value, out }
        }
        Action::Incr { delta, .. } => {
            let sum = cell.now.as_deref().unwrap_or("0").parse::<i64>().ok()? + delta;
            cell.now = Some(sum.to_string());
            Action::Incr { delta, out: Some(sum) }
        }
        Action::Del { .. } => Action::Del { out: Some(cell.now.take().is_some()) },
        Action::Cas { expect, value, .. } => {
            let did = cell.now == expect;
            if did {
                cell.now = Some(value.clone());
            }
            Action::Cas { expect, value, out: Some(did) }
        }
    })
}

/// The same action on values of the history.
fn intern(history: &mut History, action: Action<String>) -> Action<ValueId> {
    match action {
        Action::Get { out } => {
            Action::Get { out: out.map(|seen| seen.map(|text| history.value(&text))) }
        }
        Action::Put { value } => Action::Put { value: history.value(&value) },
        Action::Append { value, out } => Action::Append { value: history.value(&value), out },
        Action::Incr { delta, out } => Action::Incr { delta, out },
        Action::Del { out } => Action::Del { out },
        Action::Cas { expect, value, out } => {
            let expect = expect.map(|text| history.value(&text));
            Action::Cas { expect, value: history.value(&value), out }
        }
    }
}
