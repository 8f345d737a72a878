//! The replies of one connection: in the order of its requests, however they come.
//!
//! What it is: the list of requests that are not answered, and the bytes that wait to be sent. A
//! reply of the replica is written when all before it are; a reply that this crate gives itself
//! stands behind the last request that still waits. What it is not: a socket.

use std::collections::VecDeque;

use sampan_kv::Reply;

use crate::render::{self, Rendering};

/// Sent bytes are dropped from the front of the output once there are this many.
const SENT_BYTES_KEPT: usize = 256 << 10;
/// An empty output keeps memory for this many bytes.
const KEPT_BYTES: usize = 64 << 10;

/// The replies of one connection.
#[derive(Debug)]
pub(crate) struct Flow {
    /// The number of the first request that waits, or of the next one.
    first_seq: u64,
    waiting: VecDeque<Waiting>,
    output: Vec<u8>,
    sent_bytes: usize,
    reply_bytes_max: usize,
}

#[derive(Debug)]
struct Waiting {
    rendering: Rendering,
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
        }
    }

    /// Notes a request that the replica will answer; its number.
    pub(crate) fn expect(&mut self, rendering: Rendering) -> u64 {
        self.waiting.push_back(Waiting { rendering, reply: None, after: Vec::new() });
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
        } else if self.sent_bytes >= SENT_BYTES_KEPT {
            self.output.drain(..self.sent_bytes);
            self.sent_bytes = 0;
        }
    }

    fn write_first(&mut self, reply: &Reply) {
        let Some(first) = self.waiting.pop_front() else { return };
        self.first_seq += 1;
        render::write(reply, first.rendering, self.reply_bytes_max, &mut self.output);
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
        let seqs: Vec<u64> = (0..4).map(|_| flow.expect(Rendering::Resp2)).collect();
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
        let one = flow.expect(Rendering::Resp2);
        flow.say(b"+second\r\n");
        flow.say(b"+third\r\n");
        let two = flow.expect(Rendering::Resp2);
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
        let seqs = renderings.map(|rendering| flow.expect(rendering));
        for seq in seqs {
            flow.answer(seq, Reply::Nil);
        }
        assert_eq!(text(&flow), "$-1\r\n_\r\n");
    }

    #[test]
    fn a_reply_to_nobody_is_dropped() {
        let mut flow = flow();
        let seq = flow.expect(Rendering::Resp2);
        flow.answer(seq + 1, Reply::Int(9));
        flow.answer(seq, Reply::Int(1));
        flow.answer(seq, Reply::Int(9));
        assert_eq!(text(&flow), ":1\r\n");
        assert_eq!(flow.expect(Rendering::Resp2), seq + 1);
    }

    #[test]
    fn what_is_sent_is_gone_and_memory_is_given_back() {
        let mut flow = flow();
        let big = vec![b'x'; 2 * SENT_BYTES_KEPT];
        flow.say(&big);
        flow.mark_sent(3);
        assert_eq!(flow.unsent().len(), big.len() - 3);
        flow.mark_sent(SENT_BYTES_KEPT);
        assert_eq!(flow.unsent().len(), big.len() - 3 - SENT_BYTES_KEPT);
        assert_eq!(flow.sent_bytes, 0);
        flow.mark_sent(flow.unsent().len());
        assert_eq!(flow.unsent(), b"");
        assert!(flow.output.capacity() <= KEPT_BYTES);
    }
}
