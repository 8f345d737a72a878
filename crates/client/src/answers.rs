//! The second half of the driver: what each reply does to the call it answers.

use sampan_base::SessionId;
use sampan_resp::{ReplyError, Value};
use tokio::time::Instant;

use crate::connection::{Connection, Purpose};
use crate::driver::{Driver, SessionState};
use crate::error::Error;
use crate::request::{Call, Kind};
use crate::session::{Session, Slot};
use crate::verdict::{Verdict, judge};

impl Driver {
    /// Takes every whole reply that has been read. An error ends the connection.
    pub(crate) fn take_replies(&mut self, connection: &mut Connection) -> Result<(), String> {
        let now = Instant::now();
        while let Some(value) =
            connection.next_reply().map_err(|error| unreadable(connection, error))?
        {
            match connection.next_in_flight() {
                Some(Purpose::Call(call)) if call.kind == Kind::Read => {
                    self.take_read(connection, call, value, now);
                }
                Some(Purpose::Call(call)) => self.take_write(connection, call, value, now),
                Some(Purpose::OpenSession) => self.take_session(connection, &value, now),
                Some(Purpose::CloseSession) => {}
                None => return Err(format!("a reply to nothing: {value:?}")),
            }
        }
        Ok(())
    }

    fn take_read(
        &mut self,
        connection: &mut Connection,
        mut call: Call,
        value: Value,
        now: Instant,
    ) {
        match judge(&value) {
            Verdict::Unknown | Verdict::Refused | Verdict::SessionFull => {
                self.pause(text(value), now);
                self.requeue(call);
            }
            Verdict::RefusedHere => {
                connection.leaving = Some(text(value));
                self.requeue(call);
            }
            Verdict::Final
            | Verdict::SessionExpired
            | Verdict::SessionBroken
            | Verdict::NoSessions => {
                self.progress();
                call.answer(outcome(value));
            }
        }
    }

    fn take_write(
        &mut self,
        connection: &mut Connection,
        mut call: Call,
        value: Value,
        now: Instant,
    ) {
        match judge(&value) {
            Verdict::Final => {
                self.progress();
                self.settle(&call);
                call.answer(outcome(value));
            }
            Verdict::Unknown => {
                call.is_uncertain = true;
                self.pause(text(value), now);
                self.requeue(call);
            }
            Verdict::Refused => {
                self.pause(text(value), now);
                self.requeue(call);
            }
            Verdict::SessionFull => {
                if !self.make_room(&call) {
                    self.pause(text(value), now);
                }
                self.requeue(call);
            }
            Verdict::RefusedHere => {
                connection.leaving = Some(text(value));
                self.requeue(call);
            }
            Verdict::SessionExpired => {
                self.pause(text(value), now);
                self.end_session(call.id.map(|id| id.session));
                self.requeue(call);
            }
            Verdict::SessionBroken => {
                self.end_session(call.id.map(|id| id.session));
                call.answer(Err(Error::Protocol(text(value))));
            }
            Verdict::NoSessions => {
                self.settle(&call);
                call.answer(Err(Error::NoSessions(text(value))));
            }
        }
    }

    /// The reply to `SESSION OPEN`.
    fn take_session(&mut self, connection: &mut Connection, value: &Value, now: Instant) {
        self.session = SessionState::None;
        if let Value::Integer(id @ 1..) = *value {
            self.progress();
            self.session =
                SessionState::Open(Session::new(SessionId(id as u64), self.config.window));
            return;
        }
        let why = text(value.clone());
        let error = match judge(value) {
            Verdict::Unknown | Verdict::Refused | Verdict::SessionFull => {
                return self.pause(why, now);
            }
            Verdict::RefusedHere => return connection.leaving = Some(why),
            Verdict::NoSessions => Error::NoSessions(why),
            _ if matches!(value, Value::Error(_)) => Error::Rejected(why),
            _ => Error::Protocol(format!("expected a session, got {value:?}")),
        };
        for mut call in std::mem::take(&mut self.writes) {
            call.answer(Err(error.clone()));
        }
    }

    /// Puts a call back into its queue, to be sent again. One whose session has ended goes into
    /// the next session if no copy of it can have been applied, and is given up otherwise.
    pub(crate) fn requeue(&mut self, mut call: Call) {
        if call.is_answered() {
            return self.settle(&call);
        }
        if let Some(id) = call.id.filter(|id| Some(id.session) != self.session_id()) {
            if call.is_uncertain {
                return call.answer(Err(Error::SessionExpired { id }));
            }
            call.id = None;
        }
        let queue = match call.kind {
            Kind::Read => &mut self.reads,
            Kind::Write => &mut self.writes,
        };
        let place = queue.partition_point(|other| other.ticket < call.ticket);
        queue.insert(place, call);
    }

    /// The session is of no more use, if it is still the present one. Its writes in the queue are
    /// sorted out; those on the wire get an answer each.
    fn end_session(&mut self, id: Option<SessionId>) {
        if id.is_none() || id != self.session_id() {
            return;
        }
        self.session = SessionState::None;
        for call in std::mem::take(&mut self.writes) {
            self.requeue(call);
        }
    }

    fn session_id(&self) -> Option<SessionId> {
        match &self.session {
            SessionState::Open(session) => Some(session.id()),
            SessionState::None | SessionState::Opening => None,
        }
    }

    /// Lets the server forget replies of the session this call is in, if there are any to forget.
    fn make_room(&mut self, call: &Call) -> bool {
        match (&mut self.session, call.id) {
            (SessionState::Open(session), Some(id)) if id.session == session.id() => {
                session.make_room()
            }
            _ => false,
        }
    }

    /// Nothing more is to be done for a write. If its caller got [`Error::Unknown`] before, it may
    /// still ask for the outcome: then the server is to remember it.
    fn settle(&mut self, call: &Call) {
        let slot = if call.is_answered() { Slot::GivenUp } else { Slot::Settled };
        if let (SessionState::Open(session), Some(id)) = (&mut self.session, call.id) {
            session.mark(id, slot);
        }
    }
}

/// Why the connection is of no more use. A reply that is too big is so from every node: it ends the
/// call it answers, which goes with the connection.
fn unreadable(connection: &mut Connection, error: ReplyError) -> String {
    let why = error.to_string();
    if matches!(error, ReplyError::TooBig(_))
        && let Some(oldest) = connection.in_flight().front_mut()
        && let Purpose::Call(call) = &mut oldest.purpose
    {
        call.answer(Err(Error::Protocol(why.clone())));
    }
    why
}

/// A reply as a result.
fn outcome(value: Value) -> Result<Value, Error> {
    match value {
        Value::Error(text) => Err(Error::Rejected(text)),
        value => Ok(value),
    }
}

/// The text of an error reply.
fn text(value: Value) -> String {
    match value {
        Value::Error(text) => text,
        other => format!("{other:?}"),
    }
}
