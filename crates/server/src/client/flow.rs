//! The replies of one connection: in the order of its requests, however they come.
//!
//! What it is: the list of requests that are not answered, and the bytes that wait to be sent. A
//! reply of the replica is written when all before it are; a reply that this crate gives itself
//! stands behind the last request that still waits. It also says how many bytes are still to come,
//! by the replies so far, so that a client that reads slowly is not read from before its replies
//! fill the memory. What it is not: a socket.

use std::collections::VecDeque;

use sampan_kv::Reply;

use crate::render::{self, Rendering};

/// Sent bytes are dropped from the front of the output once there are this many, and no fewer than
/// those that would have to move: so that no byte moves twice on average.
const SENT_BYTES_KEPT: usize = 256 << 10;
/// An empty output keeps memory for this many bytes: ten thousand connections may have one.
const KEPT_BYTES: usize = 4 << 10;
/// A connection without requests keeps memory for this many.
const WAITING_KEPT: usize = 64;
/// What a value in a reply is taken for before there was one.
const VALUE_BYTES_FIRST: usize = 16 << 10;
/// What it is taken for at least, and what a reply with values is taken for beside them: the next
/// one may be larger than all so far.
const VALUE_BYTES_MIN: usize = 512;
const REPLY_BYTES_MIN: usize = 4 << 10;
/// The largest value so far counts less by this share with each reply after it.
const VALUE_BYTES_DECAY: usize = 16;

/// The replies of one connection.
#[derive(Debug)]
pub(crate) struct Flow {
    /// The number of the first request that waits, or of the next one.
    first_seq: u64,
    waiting: VecDeque<Waiting>,
    output: Vec<u8>,
    sent_bytes: usize,
    reply_bytes_max: usize,
    /// Replies with values that are still to come, and the values in them, at most.
    replies_waiting: usize,
    values_waiting: usize,
    /// What one of them is taken for.
    value_bytes: usize,
    /// What all these replies may be at most.
    worst_bytes: usize,
    /// The commands of all requests that wait.
    command_bytes: usize,
    /// Bytes of this crate's own replies that stand behind a request that waits.
    after_bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    rendering: Rendering,
    command_bytes: usize,
    values: usize,
    worst_bytes: usize,
    /// The reply, while one before it is missing.
    reply: Option<Reply>,
    /// What follows the reply: of commands that need no replica.
    after: Vec<u8>,
}

impl Flow {
    /// A connection that has asked nothing. No single reply may reach `reply_bytes_max`.
    pub(crate) fn new(reply_bytes_max: usize) -> Self {
        Self {
            first_seq: 0,
            waiting: VecDeque::new(),
            output: Vec::new(),
            sent_bytes: 0,
            reply_bytes_max,
            replies_waiting: 0,
            values_waiting: 0,
            value_bytes: VALUE_BYTES_FIRST,
            worst_bytes: 0,
            command_bytes: 0,
            after_bytes: 0,
        }
    }

    /// Notes a request that the replica will answer, with a command of so many bytes, and so many
    /// whole values and bytes of them in the reply at most; its number.
    pub(crate) fn expect(
        &mut self,
        rendering: Rendering,
        command_bytes: usize,
        values: usize,
        worst_bytes: usize,
    ) -> u64 {
        self.command_bytes += command_bytes;
        self.worst_bytes += worst_bytes;
        self.replies_waiting += usize::from(values > 0);
        self.values_waiting += values;
        let (reply, after) = (None, Vec::new());
        let waiting = Waiting { rendering, command_bytes, values, worst_bytes, reply, after };
        self.waiting.push_back(waiting);
        self.first_seq + self.waiting.len() as u64 - 1
    }

    /// Adds a reply of this crate's own, complete bytes, in its place.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        match self.waiting.back_mut() {
            Some(last) => {
                last.after.extend_from_slice(bytes);
                self.after_bytes += bytes.len();
            }
            None => self.output.extend_from_slice(bytes),
        }
    }

    /// Takes the reply to a request. One to a request that does not wait is nobody's, and dropped.
    pub(crate) fn answer(&mut self, seq: u64, reply: Reply) {
        let Some(place) = seq.checked_sub(self.first_seq) else { return };
        let Some(waiting) = self.waiting.get_mut(place as usize) else { return };
        if place > 0 {
            waiting.reply = Some(reply);
            return;
        }
        self.write_first(&reply);
        while let Some(Waiting { reply, .. }) = self.waiting.front_mut()
            && let Some(reply) = reply.take()
        {
            self.write_first(&reply);
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to(WAITING_KEPT);
        }
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The bytes of their commands.
    pub(crate) fn command_bytes(&self) -> usize {
        self.command_bytes
    }

    /// Bytes to send, those included that come with or behind replies that are waited for. What is
    /// not a value is a few bytes.
    pub(crate) fn expected_bytes(&self) -> usize {
        self.held_bytes()
            + self.replies_waiting * REPLY_BYTES_MIN
            + self.values_waiting * self.value_bytes
    }

    /// Bytes to send, if all replies that are waited for are as long as they may be.
    pub(crate) fn worst_bytes(&self) -> usize {
        self.held_bytes() + self.worst_bytes
    }

    /// Bytes to send, and those that wait for a reply before them.
    pub(crate) fn held_bytes(&self) -> usize {
        self.unsent().len() + self.after_bytes
    }

    /// The memory of these bytes, and of those before them that are sent.
    pub(crate) fn memory_bytes(&self) -> usize {
        let output_bytes = if self.output.is_empty() { 0 } else { self.output.capacity() };
        output_bytes + self.after_bytes
    }

    /// Bytes to send.
    pub(crate) fn unsent(&self) -> &[u8] {
        self.output.get(self.sent_bytes..).unwrap_or_default()
    }

    /// The first `count` bytes of [`Flow::unsent`] are sent.
    pub(crate) fn mark_sent(&mut self, count: usize) {
        self.sent_bytes += count;
        assert!(self.sent_bytes <= self.output.len(), "more sent than there was: {count}");
        if self.sent_bytes == self.output.len() {
            self.output.clear();
            self.output.shrink_to(KEPT_BYTES);
            self.sent_bytes = 0;
        } else if self.sent_bytes >= SENT_BYTES_KEPT.max(self.output.len() / 2) {
            self.output.drain(..self.sent_bytes);
            self.sent_bytes = 0;
        }
    }

    fn write_first(&mut self, reply: &Reply) {
        let Some(first) = self.waiting.pop_front() else { return };
        self.first_seq += 1;
        self.command_bytes -= first.command_bytes;
        let before = self.output.len();
        render::write(reply, first.rendering, self.reply_bytes_max, &mut self.output);
        if first.values > 0 {
            self.replies_waiting -= 1;
            self.worst_bytes -= first.worst_bytes;
            self.values_waiting -= first.values;
            let rest = self.value_bytes - self.value_bytes / VALUE_BYTES_DECAY;
            let bytes = (self.output.len() - before) / first.values;
            self.value_bytes = bytes.max(rest).max(VALUE_BYTES_MIN);
        }
        self.after_bytes -= first.after.len();
        self.output.extend_from_slice(&first.after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow::new(1 << 20)
    }

    fn text(flow: &Flow) -> &str {
        std::str::from_utf8(flow.unsent()).unwrap()
    }

    #[test]
    fn replies_leave_in_the_order_of_the_requests_whatever_order_they_come_in() {
        let mut flow = flow();
        let seqs: Vec<u64> = (0..4).map(|_| flow.expect(Rendering::Resp2, 9, 0, 0)).collect();
        flow.answer(seqs[2], Reply::Int(2));
        flow.answer(seqs[1], Reply::Int(1));
        assert_eq!(text(&flow), "");
        flow.answer(seqs[0], Reply::Int(0));
        assert_eq!(text(&flow), ":0\r\n:1\r\n:2\r\n");
        flow.answer(seqs[3], Reply::Int(3));
        assert_eq!(text(&flow), ":0\r\n:1\r\n:2\r\n:3\r\n");
        assert_eq!(flow.waiting(), 0);
    }

    #[test]
    fn an_own_reply_keeps_its_place_among_those_of_the_replica() {
        let mut flow = flow();
        flow.say(b"+first\r\n");
        let one = flow.expect(Rendering::Resp2, 9, 0, 0);
        flow.say(b"+second\r\n");
        flow.say(b"+third\r\n");
        let two = flow.expect(Rendering::Resp2, 9, 0, 0);
        flow.say(b"+fourth\r\n");
        flow.answer(two, Reply::Int(2));
        assert_eq!(text(&flow), "+first\r\n");
        flow.answer(one, Reply::Int(1));
        assert_eq!(text(&flow), "+first\r\n:1\r\n+second\r\n+third\r\n:2\r\n+fourth\r\n");
    }

    #[test]
    fn each_reply_has_the_protocol_of_its_request() {
        let mut flow = flow();
        let renderings = [Rendering::Resp2, Rendering::Silent, Rendering::Resp3];
        let seqs = renderings.map(|rendering| flow.expect(rendering, 9, 0, 0));
        for seq in seqs {
            flow.answer(seq, Reply::Nil);
        }
        assert_eq!(text(&flow), "$-1\r\n_\r\n");
    }

    #[test]
    fn a_reply_to_nobody_is_dropped() {
        let mut flow = flow();
        let seq = flow.expect(Rendering::Resp2, 9, 0, 0);
        flow.answer(seq + 1, Reply::Int(9));
        flow.answer(seq, Reply::Int(1));
        flow.answer(seq, Reply::Int(9));
        assert_eq!(text(&flow), ":1\r\n");
        assert_eq!(flow.expect(Rendering::Resp2, 9, 0, 0), seq + 1);
    }

    #[test]
    fn replies_to_come_count_as_large_as_those_that_came() {
        let mut flow = flow();
        let ask = |flow: &mut Flow, bytes: usize| {
            let seq = flow.expect(Rendering::Resp2, 9, 1, 1 << 20);
            let expected = flow.expected_bytes() - flow.unsent().len();
            flow.answer(seq, Reply::bulk(&vec![b'x'; bytes]));
            expected
        };
        assert_eq!(ask(&mut flow, 100_000), VALUE_BYTES_FIRST + REPLY_BYTES_MIN);
        let as_before = ask(&mut flow, 1) - REPLY_BYTES_MIN;
        assert!((100_000..100_100).contains(&as_before), "as the one before");
        for _ in 0..100 {
            ask(&mut flow, 1);
        }
        assert_eq!(ask(&mut flow, 1), VALUE_BYTES_MIN + REPLY_BYTES_MIN, "long ago");
        let seq = flow.expect(Rendering::Resp2, 9, 0, 0);
        assert_eq!(flow.expected_bytes(), flow.unsent().len(), "a write");
        flow.say(&[b'y'; 5_000]);
        assert_eq!(flow.expected_bytes(), flow.unsent().len() + 5_000, "what follows it");
        flow.answer(seq, Reply::Ok);
        assert_eq!(flow.expected_bytes(), flow.unsent().len());
    }

    #[test]
    fn a_reply_counts_for_each_value_in_it() {
        let mut flow = flow();
        let many = flow.expect(Rendering::Resp2, 9, 50, 5_000);
        assert_eq!(flow.worst_bytes(), 5_000);
        assert_eq!(flow.expected_bytes(), 50 * VALUE_BYTES_FIRST + REPLY_BYTES_MIN);
        flow.answer(many, Reply::bulk(&vec![b'x'; 50 * 20_000]));
        flow.expect(Rendering::Resp2, 9, 2, 100);
        let expected = flow.expected_bytes() - flow.unsent().len() - REPLY_BYTES_MIN;
        assert!((40_000..40_100).contains(&expected), "{expected}");
    }

    #[test]
    fn a_long_pipeline_leaves_no_memory_behind() {
        let mut flow = flow();
        let seqs: Vec<u64> = (0..10_000).map(|_| flow.expect(Rendering::Resp2, 9, 0, 0)).collect();
        for seq in seqs {
            flow.answer(seq, Reply::Ok);
        }
        assert!(flow.waiting.capacity() <= WAITING_KEPT, "{}", flow.waiting.capacity());
    }

    #[test]
    fn what_is_sent_is_gone_and_memory_is_given_back() {
        let mut flow = flow();
        let big = vec![b'x'; 4 * SENT_BYTES_KEPT];
        flow.say(&big);
        flow.mark_sent(SENT_BYTES_KEPT);
        assert_eq!(flow.unsent().len(), big.len() - SENT_BYTES_KEPT);
        assert_eq!(flow.output.len(), big.len(), "more would have to move than go");
        assert!(flow.memory_bytes() >= big.len(), "{}", flow.memory_bytes());
        flow.mark_sent(SENT_BYTES_KEPT + 3);
        assert_eq!(flow.unsent().len(), big.len() - 3 - 2 * SENT_BYTES_KEPT);
        assert_eq!(flow.sent_bytes, 0);
        flow.mark_sent(flow.unsent().len());
        assert_eq!((flow.unsent(), flow.memory_bytes()), (&b""[..], 0));
        assert!(flow.output.capacity() <= KEPT_BYTES);
    }
}
