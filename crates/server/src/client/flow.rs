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
/// An empty output keeps memory for this many bytes.
const KEPT_BYTES: usize = 64 << 10;
/// What a read's reply is taken for before there was one.
const READ_REPLY_BYTES_FIRST: usize = 16 << 10;
/// What it is taken for at least: the next one may be larger than all so far.
const READ_REPLY_BYTES_MIN: usize = 4 << 10;
/// The largest reply so far counts less by this share with each one after it.
const READ_REPLY_DECAY: usize = 16;

/// The replies of one connection.
#[derive(Debug)]
pub(crate) struct Flow {
    /// The number of the first request that waits, or of the next one.
    first_seq: u64,
    waiting: VecDeque<Waiting>,
    output: Vec<u8>,
    sent_bytes: usize,
    reply_bytes_max: usize,
    /// Reads that wait.
    reads_waiting: usize,
    /// What the reply to one of them is taken for.
    read_reply_bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    rendering: Rendering,
    is_read: bool,
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
            reads_waiting: 0,
            read_reply_bytes: READ_REPLY_BYTES_FIRST,
        }
    }

    /// Notes a request that the replica will answer; its number.
    pub(crate) fn expect(&mut self, rendering: Rendering, is_read: bool) -> u64 {
        self.reads_waiting += usize::from(is_read);
        self.waiting.push_back(Waiting { rendering, is_read, reply: None, after: Vec::new() });
        self.first_seq + self.waiting.len() as u64 - 1
    }

    /// Adds a reply of this crate's own, complete bytes, in its place.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        match self.waiting.back_mut() {
            Some(last) => last.after.extend_from_slice(bytes),
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
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes to send, those of replies to reads that wait included. Writes answer a few bytes.
    pub(crate) fn expected_bytes(&self) -> usize {
        self.unsent().len() + self.reads_waiting * self.read_reply_bytes
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
        let before = self.output.len();
        render::write(reply, first.rendering, self.reply_bytes_max, &mut self.output);
        if first.is_read {
            self.reads_waiting -= 1;
            let rest = self.read_reply_bytes - self.read_reply_bytes / READ_REPLY_DECAY;
            let bytes = self.output.len() - before;
            self.read_reply_bytes = bytes.max(rest).max(READ_REPLY_BYTES_MIN);
        }
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
        let seqs: Vec<u64> = (0..4).map(|_| flow.expect(Rendering::Resp2, false)).collect();
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
        let one = flow.expect(Rendering::Resp2, false);
        flow.say(b"+second\r\n");
        flow.say(b"+third\r\n");
        let two = flow.expect(Rendering::Resp2, false);
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
        let seqs = renderings.map(|rendering| flow.expect(rendering, false));
        for seq in seqs {
            flow.answer(seq, Reply::Nil);
        }
        assert_eq!(text(&flow), "$-1\r\n_\r\n");
    }

    #[test]
    fn a_reply_to_nobody_is_dropped() {
        let mut flow = flow();
        let seq = flow.expect(Rendering::Resp2, false);
        flow.answer(seq + 1, Reply::Int(9));
        flow.answer(seq, Reply::Int(1));
        flow.answer(seq, Reply::Int(9));
        assert_eq!(text(&flow), ":1\r\n");
        assert_eq!(flow.expect(Rendering::Resp2, false), seq + 1);
    }

    #[test]
    fn replies_to_come_count_as_large_as_those_that_came() {
        let mut flow = flow();
        let ask = |flow: &mut Flow, bytes: usize| {
            let seq = flow.expect(Rendering::Resp2, true);
            let expected = flow.expected_bytes() - flow.unsent().len();
            flow.answer(seq, Reply::bulk(&vec![b'x'; bytes]));
            expected
        };
        assert_eq!(ask(&mut flow, 100_000), READ_REPLY_BYTES_FIRST);
        assert!((100_000..100_100).contains(&ask(&mut flow, 1)), "as the one before");
        for _ in 0..100 {
            ask(&mut flow, 1);
        }
        assert_eq!(ask(&mut flow, 1), READ_REPLY_BYTES_MIN, "long ago");
        flow.expect(Rendering::Resp2, false);
        assert_eq!(flow.expected_bytes(), flow.unsent().len(), "a write");
    }

    #[test]
    fn what_is_sent_is_gone_and_memory_is_given_back() {
        let mut flow = flow();
        let big = vec![b'x'; 4 * SENT_BYTES_KEPT];
        flow.say(&big);
        flow.mark_sent(SENT_BYTES_KEPT);
        assert_eq!(flow.unsent().len(), big.len() - SENT_BYTES_KEPT);
        assert_eq!(flow.output.len(), big.len(), "more would have to move than go");
        flow.mark_sent(SENT_BYTES_KEPT + 3);
        assert_eq!(flow.unsent().len(), big.len() - 3 - 2 * SENT_BYTES_KEPT);
        assert_eq!(flow.sent_bytes, 0);
        flow.mark_sent(flow.unsent().len());
        assert_eq!(flow.unsent(), b"");
        assert!(flow.output.capacity() <= KEPT_BYTES);
    }
}
