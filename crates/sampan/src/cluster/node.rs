//! One node of a local cluster: a child process, started again when it dies, and a file of its log
//! lines. A thread each.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sampan_server::make_directory;
use tokio::sync::mpsc::UnboundedSender;

use super::layout::{LOG_FILE, Layout, OLD_LOG_FILE, node_dir};
use crate::exit;
use crate::supervision;

/// The first wait before a node is started again; each is twice the one before.
const RESTART_WAIT_MIN: Duration = Duration::from_millis(50);
/// The longest wait.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(5);
/// A node that ran this long starts from the first wait again.
const RUN_WELL_TIME: Duration = Duration::from_secs(10);
/// A log file longer than this is set aside as `log.old` at the next start of its node.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// The longest line taken from a node; the rest of it is dropped.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// Something a node did.
#[derive(Debug)]
pub(crate) enum Event {
    /// It runs.
    Started {
        /// Which.
        id: u64,
        /// Its process.
        pid: u32,
    },
    /// It ended unasked and is started again.
    Died {
        /// Which.
        id: u64,
        /// How.
        end: End,
        /// In this long.
        again_in: Duration,
    },
    /// It ended, for good.
    Ended {
        /// Which.
        id: u64,
        /// How, and the last thing it said.
        end: End,
    },
    /// It wrote a line that somebody should see.
    Warning {
        /// Which.
        id: u64,
        /// The line.
        line: String,
    },
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct End {
    /// Its exit code; `None` if a signal ended it, or it never started.
    pub(crate) code: Option<u8>,
    /// The same in words.
    pub(crate) how: String,
    /// The last line it wrote before it ended by itself.
    pub(crate) last_line: String,
}

impl End {
    fn of(status: ExitStatus, last_line: String) -> Self {
        let code = status.code().map(|code| code as u8);
        let how = match (code, status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit code".to_owned(),
        };
        let last_line = if code.is_some_and(|code| code != 0) { last_line } else { String::new() };
        Self { code, how, last_line }
    }

    /// Would another start end the same way? All the exit codes that name a fault say so: somebody
    /// has to look. A process that was killed, or crashed, may do better.
    pub(crate) fn is_for_good(&self) -> bool {
        self.code.is_some_and(|code| exit::FAULTS.contains(&code))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.how)?;
        if !self.last_line.is_empty() {
            write!(f, ": {}", self.last_line)?;
        }
        Ok(())
    }
}

/// A node and the thread that looks after it.
pub(crate) struct Node {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    stopping: Condvar,
}

#[derive(Default)]
struct State {
    /// The process, until it has been waited for: so its id is never another's.
    child: Option<Child>,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole whenever the lock is free; a panic elsewhere does not change that.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Starts a node and keeps it running.
    pub(crate) fn start(spec: NodeSpec, events: UnboundedSender<Event>) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name(format!("n{}", spec.id))
            .spawn(move || keep_running(&spec, &of_thread, &events))?;
        Ok(Self { shared, thread })
    }

    /// Asks it to stop, and not to come back.
    pub(crate) fn ask_to_stop(&self) {
        let mut state = self.shared.lock();
        state.stop = true;
        if let Some(child) = &state.child {
            supervision::ask_to_stop(child);
        }
        self.shared.stopping.notify_all();
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        let mut state = self.shared.lock();
        state.stop = true;
        if let Some(child) = &mut state.child {
            // It has ended by itself.
            _ = child.kill();
        }
        self.shared.stopping.notify_all();
    }

    /// Has its thread ended, and so its process?
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

/// How to start a node.
#[derive(Clone, Debug)]
pub(crate) struct NodeSpec {
    /// Which.
    pub(crate) id: u64,
    program: PathBuf,
    args: Vec<OsString>,
    dir: PathBuf,
}

impl NodeSpec {
    /// Node `id` of a cluster in `dir`: this very program as a server.
    pub(crate) fn new(
        program: &Path,
        dir: &Path,
        layout: &Layout,
        id: u64,
        server_flags: &[OsString],
    ) -> Self {
        let dir = node_dir(dir, id);
        let mut args: Vec<OsString> =
            vec!["server".into(), "--stop-on-stdin-eof".into(), "--local".into()];
        let mut flag = |name: &str, value: OsString| args.extend([name.into(), value]);
        flag("--node-id", id.to_string().into());
        flag("--cluster-id", layout.cluster_id.clone().into());
        flag("--listen", layout.address(id).into());
        flag("--peer-listen", layout.peer_address(id).into());
        flag("--data-dir", dir.join("data").into());
        for peer in layout.ids().filter(|&peer| peer != id) {
            flag("--peer", format!("{peer}={}", layout.peer_address(peer)).into());
        }
        args.extend_from_slice(server_flags);
        Self { id, program: program.to_owned(), args, dir }
    }

    /// Starts the process. Its own process group, so that Ctrl-C reaches it through us alone, which
    /// lets it hand over in order.
    fn spawn(&self) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).process_group(0);
        // What makes one node differ from another comes from flags alone.
        for name in
            ["CONFIG", "NODE_ID", "CLUSTER_ID", "LISTEN", "PEER_LISTEN", "ADVERTISE", "PEER"]
        {
            command.env_remove(format!("SAMPAN_{name}"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
    }

    fn open_log(&self) -> io::Result<File> {
        // The data are below it.
        make_directory(&self.dir)?;
        let path = self.dir.join(LOG_FILE);
        if fs::metadata(&path).is_ok_and(|file| file.len() > LOG_BYTES_MAX) {
            fs::rename(&path, self.dir.join(OLD_LOG_FILE))?;
        }
        OpenOptions::new().create(true).append(true).open(path)
    }
}

/// Starts the process again and again, until it is asked to stop or a start cannot help.
fn keep_running(spec: &NodeSpec, shared: &Shared, events: &UnboundedSender<Event>) {
    let id = spec.id;
    let mut wait = RESTART_WAIT_MIN;
    loop {
        let started = Instant::now();
        let end = run_once(spec, shared, events);
        if started.elapsed() >= RUN_WELL_TIME {
            wait = RESTART_WAIT_MIN;
        }
        let state = shared.lock();
        if state.stop || end.is_for_good() {
            _ = events.send(Event::Ended { id, end });
            return;
        }
        // Nobody listens any more only when the whole program ends.
        _ = events.send(Event::Died { id, end, again_in: wait });
        let asked = shared.stopping.wait_timeout_while(state, wait, |state| !state.stop);
        drop(asked);
        wait = (wait * 2).min(RESTART_WAIT_MAX);
    }
}

/// One life of the process.
fn run_once(spec: &NodeSpec, shared: &Shared, events: &UnboundedSender<Event>) -> End {
    let not_started = |error: &io::Error| End {
        code: None,
        how: format!("cannot start: {error}"),
        last_line: String::new(),
    };
    let log = match spec.open_log() {
        Ok(log) => log,
        Err(error) => return not_started(&error),
    };
    let stderr = {
        let mut state = shared.lock();
        if state.stop {
            return End { code: Some(0), how: "not started".to_owned(), last_line: String::new() };
        }
        let mut child = match spec.spawn() {
            Ok(child) => child,
            Err(error) => return not_started(&error),
        };
        let stderr = child.stderr.take().expect("standard error is a pipe");
        _ = events.send(Event::Started { id: spec.id, pid: child.id() });
        state.child = Some(child);
        stderr
    };
    let last_line = copy_lines(spec.id, stderr, log, events);
    // Standard error is at its end, so the process has ended or is about to: this lock is short.
    let mut state = shared.lock();
    let status = state.child.take().expect("only this thread takes the child").wait();
    match status {
        Ok(status) => End::of(status, last_line),
        Err(error) => not_started(&error),
    }
}

/// Copies what a node says into its log file until it says no more; the last line, or the one that
/// says which argument is wrong: others follow it.
fn copy_lines(
    id: u64,
    from: impl io::Read,
    mut log: File,
    events: &UnboundedSender<Event>,
) -> String {
    let mut from = BufReader::new(from);
    let (mut bytes, mut last_line) = (Vec::new(), String::new());
    loop {
        bytes.clear();
        let mut limited = io::Read::take(&mut from, LINE_BYTES_MAX);
        match limited.read_until(b'\n', &mut bytes) {
            Ok(0) | Err(_) => return last_line,
            Ok(_) => {}
        }
        // A full disk costs log lines, not the node.
        _ = log.write_all(&bytes);
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if is_warning(&line) {
            _ = events.send(Event::Warning { id, line: line.clone() });
        }
        if !last_line.starts_with(USAGE_ERROR) {
            last_line = line;
        }
    }
}

/// How the line about a wrong argument begins.
const USAGE_ERROR: &str = "error: ";

/// Should somebody at the terminal see this line?
fn is_warning(line: &str) -> bool {
    ["warning: ", "error: ", "panicked at"].iter().any(|mark| line.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(raw: i32) -> End {
        End::of(ExitStatus::from_raw(raw), "why".to_owned())
    }

    #[test]
    fn only_exit_codes_that_name_a_fault_are_for_good() {
        for code in 2..=8 {
            assert!(end(code << 8).is_for_good(), "exit code {code}");
        }
        for raw in [0, 1 << 8, 101 << 8, 9, 6] {
            assert!(!end(raw).is_for_good(), "wait status {raw}");
        }
        assert_eq!(end(5 << 8).to_string(), "exit code 5: why");
        assert_eq!(end(9).to_string(), "signal 9");
    }

    #[test]
    fn lines_go_to_the_file_and_warnings_to_the_terminal() {
        let dir = std::env::temp_dir().join(format!("sampan-lines-{}", std::process::id()));
        let (events, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let text = "started\nwarning: slow disk\nbye\n";
        let last = copy_lines(2, text.as_bytes(), File::create(&dir).unwrap(), &events);
        assert_eq!(last, "bye");
        assert_eq!(fs::read_to_string(&dir).unwrap(), text);
        fs::remove_file(&dir).unwrap();
        let Some(Event::Warning { id: 2, line }) = seen.try_recv().ok() else {
            panic!("no warning")
        };
        assert_eq!(line, "warning: slow disk");
        assert!(seen.try_recv().is_err());
    }

    #[test]
    fn a_node_is_told_of_its_peers_and_of_itself() {
        let layout = Layout { cluster_id: "00000000000000ab".into(), nodes: 3, port: 7001 };
        let extra = ["--heartbeat-ms".into(), "20".into()];
        let spec = NodeSpec::new(Path::new("sampan"), Path::new("dir"), &layout, 2, &extra);
        let args: Vec<&str> = spec.args.iter().map(|arg| arg.to_str().unwrap()).collect();
        assert_eq!(
            args.join(" "),
            "server --stop-on-stdin-eof --local --node-id 2 --cluster-id 00000000000000ab \
             --listen 127.0.0.1:7002 --peer-listen 127.0.0.1:17002 --data-dir dir/node2/data \
             --peer 1=127.0.0.1:17001 --peer 3=127.0.0.1:17003 --heartbeat-ms 20"
        );
    }
}
