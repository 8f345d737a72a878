//! The client's half of a session (thesis 6.3): which sequence numbers are out, and up to which
//! all are answered. Pure.

use std::collections::VecDeque;

use sampan_base::SessionId;

use crate::error::OnceId;

/// An open session.
///
/// Sequences `1..=acked` need no memory on the server any more; those after it are `slots`.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    id: SessionId,
    acked: u64,
    slots: VecDeque<Slot>,
    window: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Slot {
    /// Sent, or to be sent again.
    Waiting,
    /// Its outcome is known: the server may forget it.
    Settled,
    /// Its caller got [`crate::Error::Unknown`]. The server keeps its reply for
    /// [`crate::Clerk::outcome`] until the window, or the server, needs the place.
    GivenUp,
}

impl Session {
    pub(crate) fn new(id: SessionId, window: usize) -> Self {
        assert!(window > 0, "a window of no writes");
        Self { id, acked: 0, slots: VecDeque::new(), window }
    }

    pub(crate) const fn id(&self) -> SessionId {
        self.id
    }

    /// All sequences up to this are settled or given up for good.
    pub(crate) const fn acked(&self) -> u64 {
        self.acked
    }

    /// The name for one more write; `None` while the window is full.
    pub(crate) fn issue(&mut self) -> Option<OnceId> {
        while self.slots.len() >= self.window {
            if self.slots.front() == Some(&Slot::Waiting) {
                return None;
            }
            // Once it is acknowledged, a late copy of a write given up is refused, not applied.
            self.pop();
        }
        self.slots.push_back(Slot::Waiting);
        Some(OnceId { session: self.id, sequence: self.acked + self.slots.len() as u64 })
    }

    /// Notes what became of a write. One of another session, or acknowledged before, is no matter.
    pub(crate) fn mark(&mut self, id: OnceId, slot: Slot) {
        let place = id.sequence.checked_sub(self.acked + 1).map(|place| place as usize);
        if id.session == self.id
            && let Some(found) = place.and_then(|place| self.slots.get_mut(place))
        {
            *found = slot;
        }
        self.pop_settled();
    }

    /// The server keeps no more replies of this session: gives up the oldest that somebody may
    /// still ask for, and with it those behind it that it held up. False if there is none, and the
    /// room comes with the writes that are out.
    pub(crate) fn make_room(&mut self) -> bool {
        let before = self.acked;
        if self.slots.front() == Some(&Slot::GivenUp) {
            self.pop();
        }
        self.pop_settled();
        self.acked > before
    }

    fn pop_settled(&mut self) {
        while self.slots.front() == Some(&Slot::Settled) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        self.slots.pop_front();
        self.acked += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::new(SessionId(9), 3)
    }

    fn id(sequence: u64) -> OnceId {
        OnceId { session: SessionId(9), sequence }
    }

    fn issue_three(session: &mut Session) {
        (1..=3).for_each(|sequence| assert_eq!(session.issue(), Some(id(sequence))));
    }

    #[test]
    fn sequences_are_unique_increase_and_stop_at_the_window() {
        let mut session = session();
        issue_three(&mut session);
        assert_eq!(session.issue(), None);
        session.mark(id(1), Slot::Settled);
        assert_eq!(session.issue(), Some(id(4)));
        assert_eq!(session.issue(), None);
    }

    #[test]
    fn acked_is_the_end_of_the_settled_prefix() {
        let mut session = session();
        issue_three(&mut session);
        session.mark(id(2), Slot::Settled);
        assert_eq!(session.acked(), 0);
        session.mark(id(1), Slot::Settled);
        assert_eq!(session.acked(), 2);
        session.mark(id(1), Slot::GivenUp);
        session.mark(OnceId { session: SessionId(8), sequence: 3 }, Slot::Settled);
        assert_eq!(session.acked(), 2);
    }

    #[test]
    fn a_write_given_up_is_kept_until_the_window_needs_its_place() {
        let mut session = session();
        issue_three(&mut session);
        session.mark(id(1), Slot::GivenUp);
        session.mark(id(2), Slot::Settled);
        assert_eq!(session.acked(), 0);
        assert_eq!(session.issue(), Some(id(4)));
        assert_eq!(session.acked(), 1, "and no more than needed");
        session.mark(id(4), Slot::Settled);
        assert_eq!(session.issue(), Some(id(5)));
        assert_eq!(session.acked(), 2);
    }

    #[test]
    fn room_is_made_by_one_write_given_up_and_the_settled_ones_behind_it() {
        let mut session = Session::new(SessionId(9), 4);
        (1..=4).for_each(|sequence| assert_eq!(session.issue(), Some(id(sequence))));
        assert!(!session.make_room(), "all are out");
        session.mark(id(1), Slot::GivenUp);
        session.mark(id(2), Slot::Settled);
        session.mark(id(3), Slot::GivenUp);
        assert!(session.make_room());
        assert_eq!(session.acked(), 2, "and no more than needed");
        assert!(session.make_room());
        assert_eq!(session.acked(), 3);
        assert!(!session.make_room(), "the last one is out");
    }
}
