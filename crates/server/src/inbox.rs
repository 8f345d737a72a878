//! The one inbox of the event loop: everything that happens to the replica waits here for the next
//! turn, and the first thing that arrives wakes the loop.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use sampan_replica::Input;

/// Inputs in the order in which they arrived. Bounded by what its writers may read before the next
/// turn, for they share one thread with it; clients are not read from while too many of their
/// commands wait.
#[derive(Default)]
pub(crate) struct Inbox {
    inputs: RefCell<Vec<Input>>,
    waker: RefCell<Option<Waker>>,
    /// Commands of clients among them, and their bytes.
    waiting: Cell<(usize, usize)>,
}

impl Inbox {
    /// Adds an input.
    pub(crate) fn push(&self, input: Input) {
        if let Input::Client { requests, .. } = &input {
            let (count, bytes) = self.waiting.get();
            let more: usize = requests.iter().map(|request| request.command.len()).sum();
            self.waiting.set((count + requests.len(), bytes + more));
        }
        let mut inputs = self.inputs.borrow_mut();
        let first = inputs.is_empty();
        inputs.push(input);
        if first {
            self.waker.borrow().as_ref().inspect(|waker| waker.wake_by_ref());
        }
    }

    /// How many commands of clients wait, and their bytes.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        self.waiting.get()
    }

    /// Is there a reason for a turn? If not, `waker` is woken when there is.
    pub(crate) fn poll_ready(&self, waker: &Waker) -> bool {
        let ready = !self.inputs.borrow().is_empty();
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
        ready
    }

    /// Takes all there is, in exchange for an empty list whose memory is used again.
    pub(crate) fn take(&self, empty: &mut Vec<Input>) {
        assert!(empty.is_empty(), "{} inputs would be lost", empty.len());
        std::mem::swap(&mut *self.inputs.borrow_mut(), empty);
        self.waiting.take();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use bytes::Bytes;
    use sampan_kv::Class;
    use sampan_replica::{ConnectionId, Request};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn commands_of_clients_count_until_they_are_taken() {
        let inbox = Inbox::default();
        let command = Bytes::from_static(b"1234");
        let request = Request { seq: 0, class: Class::Read, stale: false, command };
        let requests = vec![request.clone(), request];
        inbox.push(Input::Client { connection: ConnectionId(1), requests });
        inbox.push(Input::Tick);
        assert_eq!(inbox.waiting(), (2, 8));
        inbox.take(&mut Vec::new());
        assert_eq!(inbox.waiting(), (0, 0));
    }

    #[test]
    fn many_inputs_wake_the_loop_once_a_turn() {
        let wakes = Arc::new(Count::default());
        let waker = Waker::from(wakes.clone());
        let inbox = Inbox::default();
        assert!(!inbox.poll_ready(&waker));
        inbox.push(Input::Tick);
        inbox.push(Input::Shutdown);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(inbox.poll_ready(&waker));

        let mut inputs = Vec::new();
        inbox.take(&mut inputs);
        assert!(matches!(inputs[..], [Input::Tick, Input::Shutdown]));
        assert!(!inbox.poll_ready(&waker));
        inbox.push(Input::Tick);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
    }
}
