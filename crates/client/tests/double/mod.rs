// A stand-in for a cluster: one store with sessions behind any number of nodes, and for each node a
// script that says what goes wrong. Knows nothing of the client's insides. Not a module of its own
// but text to be included, so that documentation examples can run against it too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sampan_resp::{Parsed, Protocol, RequestLimits, RequestParser, Value, Writer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A command as it was received.
pub type Args = Vec<Vec<u8>>;

/// What a node does with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Serve,
    /// Answers with this error, and does nothing.
    Say(&'static str),
    /// Does it, and answers with this error all the same.
    ServeThenSay(&'static str),
    /// Closes the connection, without or with having done it.
    Cut,
    ServeThenCut,
    /// Does it, answers, and closes the connection.
    ServeLast,
    /// Leaves the connection open and never says anything again.
    Hang,
    ServeThenHang,
    /// Does it, and answers after this long; what comes behind waits.
    ServeAfter(Duration),
    /// Sends these bytes.
    Babble(&'static [u8]),
}

type Script = Box<dyn FnMut(&Args) -> Act + Send>;

/// One node; its clones are the same node. Nodes made by [`Node::peer`] share the store.
#[derive(Clone)]
pub struct Node {
    store: Arc<Mutex<Store>>,
    script: Arc<Mutex<Script>>,
}

impl Default for Node {
    fn default() -> Self {
        let store = Arc::default();
        Self { store, script: Arc::new(Mutex::new(Box::new(|_| Act::Serve))) }
    }
}

impl Node {
    /// Another node of the same cluster.
    pub fn peer(&self) -> Self {
        Self { store: Arc::clone(&self.store), ..Self::default() }
    }

    /// What this node does from now on.
    pub fn script(&self, script: impl FnMut(&Args) -> Act + Send + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// Serves on a free port of this machine; its address.
    pub async fn listen(self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(self.clone().serve(stream));
            }
        });
        address
    }

    /// Serves one connection until either side ends it.
    pub async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut parser = RequestParser::new(RequestLimits::default());
        let mut input = Vec::with_capacity(1 << 20);
        self.store().connections += 1;
        while stream.read_buf(&mut input).await.is_ok_and(|bytes| bytes > 0) {
            let mut commands: Vec<Args> = Vec::new();
            let mut used = 0;
            while let Parsed::Complete { consumed } = parser.parse(&input[used..]).unwrap() {
                commands.push(parser.args(&input[used..]).iter().map(<[u8]>::to_vec).collect());
                used += consumed;
            }
            {
                let mut store = self.store();
                store.batches += 1;
                store.batch_commands_max = store.batch_commands_max.max(commands.len());
            }
            for args in commands {
                let (reply, goes_on) = self.answer(&args).await;
                if stream.write_all(&reply).await.is_err() || !goes_on {
                    return;
                }
            }
            input.drain(..used);
        }
    }

    /// The bytes to send, and whether the connection goes on.
    async fn answer(&self, args: &Args) -> (Vec<u8>, bool) {
        let act = (self.script.lock().unwrap())(args);
        self.store().received.push(args.clone());
        let serve = || {
            let mut out = Vec::new();
            let value = self.store().execute(args);
            Writer::new(&mut out, Protocol::Resp2).value(&value);
            out
        };
        let say = |text: &str| format!("-{text}\r\n").into_bytes();
        match act {
            Act::Serve => (serve(), true),
            Act::ServeLast => (serve(), false),
            Act::ServeAfter(delay) => {
                let reply = serve();
                tokio::time::sleep(delay).await;
                (reply, true)
            }
            Act::Say(text) => (say(text), true),
            Act::ServeThenSay(text) => {
                serve();
                (say(text), true)
            }
            Act::Cut => (Vec::new(), false),
            Act::ServeThenCut => {
                serve();
                (Vec::new(), false)
            }
            Act::Hang => std::future::pending().await,
            Act::ServeThenHang => {
                serve();
                std::future::pending().await
            }
            Act::Babble(bytes) => (bytes.to_vec(), true),
        }
    }
}

/// What the cluster as a whole remembers, and what it has seen.
#[derive(Default)]
pub struct Store {
    pub keys: BTreeMap<Vec<u8>, Vec<u8>>,
    ttls_ms: BTreeMap<Vec<u8>, i64>,
    pub sessions: BTreeMap<u64, Session>,
    sessions_opened: u64,
    /// Every command received, in order.
    pub received: Vec<Args>,
    /// Every command applied from within `ONCE`, in order.
    pub applied: Vec<Args>,
    /// The most replies one session had to keep at once.
    pub kept_max: usize,
    /// As many as one session is allowed to; all, if unset.
    pub keep_at_most: Option<usize>,
    /// Connections, and pieces read from them.
    pub connections: usize,
    pub batches: usize,
    /// The most commands that were there at once, none of them answered.
    pub batch_commands_max: usize,
}

#[derive(Default)]
pub struct Session {
    pub acked: u64,
    replies: BTreeMap<u64, (Args, Value)>,
}

fn error(text: &str) -> Value {
    Value::Error(text.to_owned())
}

fn number(arg: &[u8]) -> i64 {
    std::str::from_utf8(arg).unwrap().parse().unwrap()
}

fn bulk(bytes: Option<&Vec<u8>>) -> Value {
    bytes.map_or(Value::Nil, |bytes| Value::Bulk(bytes.clone().into()))
}

impl Store {
    /// The commands received whose name this is.
    pub fn received_named(&self, name: &str) -> Vec<&Args> {
        self.received.iter().filter(|args| args[0] == name.as_bytes()).collect()
    }

    fn execute(&mut self, args: &[Vec<u8>]) -> Value {
        let name = String::from_utf8_lossy(&args[0]).to_ascii_uppercase();
        match (name.as_str(), &args[1..]) {
            ("PING", _) => Value::Simple("PONG".into()),
            ("INFO", _) => Value::Bulk("# Server\r\nserver_name:double\r\n".into()),
            ("SESSION", [open]) if open == b"OPEN" => {
                self.sessions_opened += 1;
                self.sessions.insert(self.sessions_opened, Session::default());
                Value::Integer(self.sessions_opened as i64)
            }
            ("SESSION", [_, id]) => {
                self.sessions.remove(&(number(id) as u64));
                Value::OK
            }
            ("ONCE", [id, sequence, _, acked, command @ ..]) => {
                let [id, sequence, acked] = [id, sequence, acked].map(|arg| number(arg) as u64);
                self.once(id, sequence, acked, command)
            }
            ("OUTCOME", [id, sequence]) => self.outcome(number(id) as u64, number(sequence) as u64),
            ("GET", [key]) => bulk(self.keys.get(key)),
            ("MGET", keys) => {
                Value::Array(keys.iter().map(|key| bulk(self.keys.get(key))).collect())
            }
            ("STRLEN", [key]) => Value::Integer(self.keys.get(key).map_or(0, Vec::len) as i64),
            ("EXISTS", keys) => {
                Value::Integer(keys.iter().filter(|key| self.keys.contains_key(*key)).count() as i64)
            }
            ("PTTL", [key]) if !self.keys.contains_key(key) => Value::Integer(-2),
            ("PTTL", [key]) => Value::Integer(self.ttls_ms.get(key).copied().unwrap_or(-1)),
            _ => error(&format!("ERR unknown command '{name}', with args beginning with: ")),
        }
    }

    fn once(&mut self, id: u64, sequence: u64, acked: u64, command: &[Vec<u8>]) -> Value {
        let Some(session) = self.sessions.get_mut(&id) else {
            return error("SESSIONEXPIRED no such session");
        };
        session.acked = session.acked.max(acked);
        let acked = session.acked;
        session.replies.retain(|&kept, _| kept > acked);
        if sequence <= acked {
            return error("SESSIONSTALE acknowledged before");
        }
        if let Some((before, reply)) = session.replies.get(&sequence) {
            return if before == command { reply.clone() } else { error("SESSIONREUSED") };
        }
        let is_full = self.keep_at_most.is_some_and(|most| session.replies.len() >= most);
        if is_full && sequence != acked + 1 {
            return error("SESSIONFULL too many replies not acknowledged");
        }
        let reply = self.write(command);
        self.applied.push(command.to_vec());
        let session = self.sessions.get_mut(&id).unwrap();
        session.replies.insert(sequence, (command.to_vec(), reply.clone()));
        self.kept_max = self.kept_max.max(session.replies.len());
        reply
    }

    fn outcome(&self, id: u64, sequence: u64) -> Value {
        let word = |word: &'static str| Value::Bulk(word.into());
        match self.sessions.get(&id) {
            Some(session) if sequence > session.acked => match session.replies.get(&sequence) {
                Some((_, reply)) => Value::Array(vec![word("applied"), reply.clone()]),
                None => Value::Array(vec![word("not-applied")]),
            },
            _ => Value::Array(vec![word("unknown")]),
        }
    }

    fn write(&mut self, args: &[Vec<u8>]) -> Value {
        let name = String::from_utf8_lossy(&args[0]).to_ascii_uppercase();
        match (name.as_str(), &args[1..]) {
            ("SET", [key, value, options @ ..]) => self.set(key, value, options),
            ("MSET", pairs) => {
                pairs.chunks(2).for_each(|pair| drop(self.set(&pair[0], &pair[1], &[])));
                Value::OK
            }
            ("APPEND", [key, value]) => {
                let stored = self.keys.entry(key.clone()).or_default();
                stored.extend_from_slice(value);
                Value::Integer(stored.len() as i64)
            }
            ("INCRBY", [key, by]) => {
                let before = self
                    .keys
                    .get(key)
                    .map_or(Ok(0), |text| String::from_utf8_lossy(text).parse::<i64>());
                let Ok(before) = before else {
                    return error("ERR value is not an integer or out of range");
                };
                let sum = before + number(by);
                self.keys.insert(key.clone(), sum.to_string().into_bytes());
                Value::Integer(sum)
            }
            ("DEL", keys) => {
                Value::Integer(keys.iter().filter_map(|key| self.keys.remove(key)).count() as i64)
            }
            ("PEXPIRE", [key, ms]) => {
                self.ttls_ms.insert(key.clone(), number(ms));
                Value::Integer(i64::from(self.keys.contains_key(key)))
            }
            ("PERSIST", [key]) => Value::Integer(i64::from(self.ttls_ms.remove(key).is_some())),
            _ => error(&format!("ERR unknown command '{name}', with args beginning with: ")),
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8], options: &[Vec<u8>]) -> Value {
        let has = |option: &[u8]| options.iter().any(|arg| arg == option);
        let before = bulk(self.keys.get(key));
        let exists = before != Value::Nil;
        let answer = |done| if has(b"GET") { before.clone() } else { done };
        if has(b"NX") && exists || has(b"XX") && !exists {
            return answer(Value::Nil);
        }
        self.keys.insert(key.to_vec(), value.to_vec());
        if !has(b"KEEPTTL") {
            self.ttls_ms.remove(key);
        }
        if let Some(px) = options.iter().position(|arg| arg == b"PX") {
            self.ttls_ms.insert(key.to_vec(), number(&options[px + 1]));
        }
        answer(Value::OK)
    }
}
