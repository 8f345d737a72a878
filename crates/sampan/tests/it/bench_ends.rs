//! `sampan bench` where something goes wrong around it: files, signals, terminals, servers that are
//! none. What was measured is not lost, and what was not is not claimed.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::harness::{Ended, Process, TempDir, run, sampan};

const OK: &str = "+OK\r\n";
/// Longer than any test: who waits for it has not ended by itself.
const NEVER: &str = "--timeout-ms 600000";

/// A server that says the same to whatever comes, and tells each time.
struct Server {
    address: String,
    asked: Receiver<()>,
}

impl Server {
    fn start(reply: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (ask, asked) = channel();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let ask = ask.clone();
                std::thread::spawn(move || {
                    let mut input = [0; 4_096];
                    while stream.read(&mut input).is_ok_and(|bytes| bytes > 0) {
                        _ = ask.send(());
                        if stream.write_all(reply.as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, asked }
    }

    /// One connection with one command in flight, and what else is asked for.
    fn command(&self, args: &str) -> Command {
        let mut command = sampan(["bench", "--mix", "ping", "-c", "1", "--servers", &self.address]);
        command.args(args.split_whitespace());
        command
    }

    fn bench(&self, args: &str) -> Ended {
        run(&mut self.command(args), b"")
    }

    /// Started, and the first to ask for something; with a file for its standard output.
    fn run_into(&self, command: &mut Command, output: &Path) -> Process {
        let (output, errors) = (File::create(output).unwrap(), Stdio::null());
        let process = Process(command.stdout(output).stderr(errors).spawn().unwrap());
        self.asked.recv_timeout(Duration::from_secs(20)).unwrap();
        process
    }
}

fn file(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

#[test]
fn a_result_that_one_place_does_not_take_is_in_the_others() {
    let (server, dir) = (Server::start(OK), TempDir::new("bench-full"));
    let svg = file(&dir, "plot.svg");
    let ended = server.bench(&format!("-n 10 --json /dev/full --svg {svg}"));
    ended.assert_one_error(6, &["/dev/full: No space left"]);
    assert!(ended.out().contains("10 answered"), "{}", ended.out());
    assert!(fs::read_to_string(&svg).unwrap().ends_with("</svg>\n"));
    let ended = server.bench("-n 10 --svg /dev/full --json -");
    ended.assert_one_error(6, &["/dev/full: No space left"]);
    assert!(ended.out().contains("\"answered\": 10"), "{}", ended.out());

    let json = file(&dir, "result.json");
    let mut command = server.command(&format!("-n 10 --json {json}"));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut process = Process(command.stdout(full).stderr(Stdio::null()).spawn().unwrap());
    assert_eq!(process.wait(Duration::from_secs(20)).code(), Some(6));
    assert!(fs::read_to_string(&json).unwrap().contains("\"answered\": 10"));
}

#[test]
fn a_run_without_a_result_leaves_no_file() {
    let dir = TempDir::new("bench-no-file");
    let (json, svg) = (file(&dir, "result.json"), file(&dir, "plot.svg"));
    std::os::unix::fs::symlink("target.svg", &svg).unwrap();
    let nobody = format!("bench --servers 127.0.0.1:1 --json {json} --svg {svg}");
    run(&mut sampan(nobody.split(' ')), b"").assert_one_error(3, &["127.0.0.1:1"]);
    let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["plot.svg"], "the link, and not what it names");
}

#[test]
fn two_results_do_not_go_to_one_place() {
    let (server, dir) = (Server::start(OK), TempDir::new("bench-one-file"));
    let (path, link) = (file(&dir, "result"), file(&dir, "link"));
    server.bench(&format!("--json {path} --svg {path}")).assert_one_error(2, &["json", "svg"]);
    std::os::unix::fs::symlink(&path, &link).unwrap();
    server.bench(&format!("--json {path} --svg {link}")).assert_one_error(2, &["json", "svg"]);
    server.bench("--json - --svg -").assert_one_error(2, &["json", "svg"]);
    assert!(server.asked.try_recv().is_err(), "nothing was sent");
    let ended = server.bench(&format!("-n 10 --svg - --json {path}"));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.out().starts_with("<svg") && ended.out().ends_with("</svg>\n"));
    assert!(fs::read_to_string(&path).unwrap().contains("\"answered\": 10"));
}

#[test]
fn each_signal_ends_a_run_with_what_was_measured() {
    let dir = TempDir::new("bench-signals");
    let output = dir.path().join("output");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let server = Server::start(OK);
        let mut command = server.command("--seconds 600");
        let mut process = server.run_into(&mut command, &output);
        process.signal(signal);
        let status = process.wait(Duration::from_secs(20));
        assert_eq!(status.code(), Some(1), "{signal:?}: {status}");
        let output = fs::read_to_string(&output).unwrap();
        assert!(output.contains("INTERRUPTED") && output.contains(" answered in"), "{output}");
    }
    // As `nohup` starts it.
    let server = Server::start(OK);
    let mut command = Command::new("sh");
    let bench = server.command("--seconds 1");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(bench.get_program());
    let mut process = server.run_into(command.args(bench.get_args()), &output);
    process.signal(Signal::HUP);
    assert_eq!(process.wait(Duration::from_secs(20)).code(), Some(0));
}

#[test]
fn a_second_signal_waits_for_no_answer() {
    let (server, dir) = (Server::start(""), TempDir::new("bench-silence"));
    let output = dir.path().join("output");
    let mut process = server.run_into(&mut server.command(NEVER), &output);
    process.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(process.has_ended(), None, "an answer may come");
    process.signal(Signal::INT);
    assert_eq!(process.wait(Duration::from_secs(20)).code(), Some(1));
    let output = fs::read_to_string(&output).unwrap();
    assert!(output.contains("INTERRUPTED") && output.contains("1  not waited for"), "{output}");
    // No connection yet: there is nothing to wait for.
    let server = Server::start("");
    let mut process = server.run_into(
        &mut server.command(&format!("{NEVER} --clerk")),
        dir.path().join("none").as_path(),
    );
    process.signal(Signal::TERM);
    assert_eq!(process.wait(Duration::from_secs(20)).code(), Some(1));
}

#[test]
fn what_a_server_says_does_not_reach_the_terminal_as_it_is() {
    let server = Server::start("-ERR \x1b[31mred\u{9b}2J\x07\r\n");
    let ended = server.bench("-n 3");
    assert_eq!(ended.code, Some(1));
    assert!(ended.out().contains("3  ERR \\u{1b}[31mred\\u{9b}2J\\u{7}\n"), "{}", ended.out());
    let clerk = server.bench("-n 3 --clerk");
    clerk.assert_one_error(3, &["ERR \\u{1b}[31mred"]);
}

#[test]
fn what_measured_nothing_has_failed() {
    let ended = Server::start(OK).bench("-n 10 --warm-up-seconds 100");
    ended.assert_one_error(1, &["nothing was measured"]);
    assert!(ended.out().contains("NOTHING MEASURED"), "{}", ended.out());
    assert!(ended.out().contains("10 before that in the warm-up"), "{}", ended.out());
}

#[test]
fn servers_that_are_none_are_named_before_the_run() {
    let other = Server::start("$13\r\nredis_version\r\n");
    other.bench("--clerk").assert_one_error(3, &[&other.address, "not a Sampan node"]);
    for protocol in ["", "--clerk"] {
        let args = format!("bench --servers no..host:1 --timeout-ms 3000 {protocol}");
        let ended = run(&mut sampan(args.split_whitespace()), b"");
        ended.assert_one_error(3, &["no..host:1", "lookup"]);
    }
}

/// What is said on a terminal of 40 columns of this kind.
fn on_terminal(server: &Server, term: Option<&str>) -> String {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let screen = openpt(flags).unwrap();
    unlockpt(&screen).unwrap();
    let terminal = ioctl_tiocgptpeer(&screen, flags).unwrap();
    let size = Winsize { ws_row: 24, ws_col: 40, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal, size).unwrap();
    let mut command = server.command("--seconds 0.5 --interval-ms 50");
    command.env_remove("TERM").envs(term.map(|term| ("TERM", term)));
    let mut process = Process(command.stdout(Stdio::null()).stderr(terminal).spawn().unwrap());
    drop(command);
    let mut said = Vec::new();
    // It ends with an error once nobody writes to the terminal any more.
    _ = File::from(screen).read_to_end(&mut said);
    assert_eq!(process.wait(Duration::from_secs(20)).code(), Some(0));
    String::from_utf8(said).unwrap()
}

#[test]
fn the_progress_line_fits_its_terminal_and_stays_off_those_without_escapes() {
    let server = Server::start(OK);
    let said = on_terminal(&server, Some("xterm"));
    let lines: Vec<_> = said.split("\r\x1b[K").collect();
    assert!(lines.len() > 5, "{said:?}");
    for line in &lines {
        assert!(line.chars().count() < 40 && !line.contains('\n'), "{line:?}");
    }
    assert_eq!(lines.last(), Some(&""), "cleared at the end");
    for term in [None, Some("dumb"), Some("")] {
        assert_eq!(on_terminal(&server, term), "", "TERM={term:?}");
    }
}
