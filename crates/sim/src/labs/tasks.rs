//! Scripts that run side by side in virtual time: tasks of one thread, polled in the order in which
//! they became ready. What makes them ready is `lab.rs`'s: timers and replies of its world.
//!
//! Nothing here looks at a clock, so the order is a function of the seed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// The numbers of the tasks that may go on, in order.
type Ready = Arc<Mutex<VecDeque<usize>>>;

/// Marks a task as ready.
struct Alarm {
    task: usize,
    ready: Ready,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        push(&self.ready, self.task);
    }
}

fn push(ready: &Ready, task: usize) {
    ready.lock().unwrap_or_else(PoisonError::into_inner).push_back(task);
}

struct Slot {
    /// Gone while it is polled, and once it has ended.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Waker,
}

/// All tasks of one run.
#[derive(Default)]
pub(crate) struct Tasks {
    ready: Ready,
    slots: RefCell<Vec<Slot>>,
}

impl Tasks {
    /// Starts a task. It takes its first step with the next [`Tasks::run_ready`].
    pub(crate) fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let end = Rc::new(RefCell::new(End { value: None, waiting: None }));
        let task = Task(Rc::clone(&end));
        let future = Box::pin(async move {
            let value = future.await;
            let mut end = end.borrow_mut();
            end.value = Some(value);
            if let Some(waiting) = end.waiting.take() {
                waiting.wake();
            }
        });
        let mut slots = self.slots.borrow_mut();
        let number = slots.len();
        let waker = Waker::from(Arc::new(Alarm { task: number, ready: Arc::clone(&self.ready) }));
        slots.push(Slot { future: Some(future), waker });
        push(&self.ready, number);
        task
    }

    /// Lets tasks go on until all of them wait for something.
    pub(crate) fn run_ready(&self) {
        while let Some(number) = self.next_ready() {
            let (future, waker) = {
                let mut slots = self.slots.borrow_mut();
                let slot = &mut slots[number];
                (slot.future.take(), slot.waker.clone())
            };
            // A task that has ended may have been woken once more.
            let Some(mut future) = future else { continue };
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                self.slots.borrow_mut()[number].future = Some(future);
            }
        }
    }

    fn next_ready(&self) -> Option<usize> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Ends all tasks where they are.
    pub(crate) fn clear(&self) {
        let slots = std::mem::take(&mut *self.slots.borrow_mut());
        drop(slots);
    }
}

struct End<T> {
    value: Option<T>,
    waiting: Option<Waker>,
}

/// A task that was started: await it for its result. Dropping it does not end the task.
pub(crate) struct Task<T>(Rc<RefCell<End<T>>>);

impl<T> Task<T> {
    /// Has it ended, with a result that nobody took?
    pub(crate) fn is_done(&self) -> bool {
        self.0.borrow().value.is_some()
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut end = self.0.borrow_mut();
        if let Some(value) = end.value.take() {
            Poll::Ready(value)
        } else {
            end.waiting = Some(context.waker().clone());
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_go_on_in_the_order_in_which_they_became_ready() {
        let tasks = Rc::new(Tasks::default());
        let order = Rc::new(RefCell::new(Vec::new()));
        let note = |name: &'static str| {
            let order = Rc::clone(&order);
            move || order.borrow_mut().push(name)
        };
        let (first, second, third) = (note("first"), note("second"), note("third"));
        let inner = Rc::clone(&tasks);
        let main = tasks.spawn(async move {
            let child = inner.spawn(async move {
                second();
                7
            });
            first();
            let seven = child.await;
            third();
            seven
        });
        tasks.run_ready();
        assert!(main.is_done());
        assert_eq!(*order.borrow(), ["first", "second", "third"]);
        tasks.clear();
    }
}
