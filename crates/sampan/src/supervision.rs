//! Both ends of the tie between a supervisor and a node: a pipe that the supervisor never writes
//! to. When it ends, however it ends, the kernel closes the pipe, and the node stops.

use std::io::{self, Read as _};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process};

/// A node that is told to stop and has not after this long is made to.
pub(crate) const STOP_TIME_MAX: Duration = Duration::from_secs(10);

/// From now on, the end of standard input is SIGTERM to this process.
pub(crate) fn stop_when_stdin_ends() -> io::Result<()> {
    let watch = || {
        let mut stdin = io::stdin().lock();
        let mut ignored = [0; 64];
        // An error ends it as well: nobody is there.
        while stdin.read(&mut ignored).is_ok_and(|bytes| bytes > 0) {}
        if kill_process(getpid(), Signal::TERM).is_ok() {
            thread::sleep(STOP_TIME_MAX);
        }
        std::process::exit(1);
    };
    thread::Builder::new().name("supervision".into()).spawn(watch).map(drop)
}

/// Asks a child to stop. The caller has not waited for it yet, so that its id is still its own.
pub(crate) fn ask_to_stop(child: &std::process::Child) {
    // One that has ended already needs no asking.
    _ = kill_process(Pid::from_child(child), Signal::TERM);
}
