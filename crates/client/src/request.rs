//! One call on its way from a Clerk to its driver.

use sampan_resp::{Value, write_bulk, write_command_header};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::{Error, OnceId};

/// A command, encoded except for its header, so that `ONCE ...` can be put before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Command {
    args_count: usize,
    bulks: Vec<u8>,
}

impl Command {
    pub(crate) fn new(name: &str) -> Self {
        Self::default().arg(name)
    }

    #[must_use]
    pub(crate) fn arg(mut self, arg: impl AsRef<[u8]>) -> Self {
        write_bulk(&mut self.bulks, arg.as_ref());
        self.args_count += 1;
        self
    }

    #[must_use]
    pub(crate) fn number(self, number: i64) -> Self {
        self.arg(number.to_string())
    }

    #[must_use]
    pub(crate) fn args<A: AsRef<[u8]>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.args_count == 0
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bulks.len()
    }

    /// Appends the command as it is.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        write_command_header(out, self.args_count);
        out.extend_from_slice(&self.bulks);
    }

    /// Appends `ONCE session sequence ACK acked` and the command.
    pub(crate) fn write_once(&self, id: OnceId, acked: u64, out: &mut Vec<u8>) {
        write_command_header(out, 5 + self.args_count);
        write_bulk(out, b"ONCE");
        write_number(out, id.session.0);
        write_number(out, id.sequence);
        write_bulk(out, b"ACK");
        write_number(out, acked);
        out.extend_from_slice(&self.bulks);
    }
}

fn write_number(out: &mut Vec<u8>, number: u64) {
    write_bulk(out, number.to_string().as_bytes());
}

/// Is it repeated freely, or applied once?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// What a Clerk asks of its driver.
#[derive(Debug)]
pub(crate) enum Request {
    Call(Call),
    /// Finish what is under way, close the session, say so.
    Close(oneshot::Sender<()>),
}

/// A call until it is answered.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) command: Command,
    pub(crate) deadline: Instant,
    /// `None` once answered; then only its place on the wire is left of it.
    reply: Option<oneshot::Sender<Result<Value, Error>>>,
    /// Its place in the order of arrival at the driver.
    pub(crate) ticket: u64,
    /// A write's name, from when it is first sent.
    pub(crate) id: Option<OnceId>,
    /// A write's earlier copy may have been applied, or may still be.
    pub(crate) is_uncertain: bool,
}

impl Call {
    pub(crate) const fn new(
        kind: Kind,
        command: Command,
        deadline: Instant,
        reply: oneshot::Sender<Result<Value, Error>>,
    ) -> Self {
        Self {
            kind,
            command,
            deadline,
            reply: Some(reply),
            ticket: 0,
            id: None,
            is_uncertain: false,
        }
    }

    pub(crate) const fn is_answered(&self) -> bool {
        self.reply.is_none()
    }

    /// Answers the caller, who may have stopped waiting.
    pub(crate) fn answer(&mut self, result: Result<Value, Error>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(result);
        }
    }

    /// The error for a call that is given up now, `may_arrive` if a copy is on the wire.
    pub(crate) fn given_up(&self, may_arrive: bool, why: &str) -> Error {
        let why = why.to_owned();
        match self.id {
            Some(id) if self.is_uncertain || may_arrive => Error::Unknown { id, why },
            _ => Error::Unavailable(why),
        }
    }
}
