//! Replies of the state machine as RESP2 or RESP3 bytes.

use sampan_kv::Reply;
use sampan_resp::{Protocol, Writer};

/// How a request's reply is to be written: decided when the request is read, for `HELLO` and
/// `CLIENT REPLY` hold for what follows them only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rendering {
    /// In RESP2.
    Resp2,
    /// In RESP3.
    Resp3,
    /// Not at all.
    Silent,
}

/// In place of a reply that reaches `output_bytes_max`.
pub(crate) const TOO_LONG: &str =
    "ERR the reply is longer than a connection may hold: ask for less at a time";

/// What stands before and behind a value, beside what [`Reply::encoded_bytes`] counts for that.
const ITEM_HEADER_BYTES_MAX: usize = 16;

/// Appends a reply; one of `bytes_max` bytes or more becomes an error.
pub(crate) fn write(reply: &Reply, rendering: Rendering, bytes_max: usize, out: &mut Vec<u8>) {
    let protocol = match rendering {
        Rendering::Resp2 => Protocol::Resp2,
        Rendering::Resp3 => Protocol::Resp3,
        Rendering::Silent => return,
    };
    let (bytes, items) = match reply {
        Reply::Array(items) => (reply.encoded_bytes(), items.len()),
        Reply::Bulk(_) => (reply.encoded_bytes(), 1),
        _ => (0, 0),
    };
    if bytes >= bytes_max {
        return Writer::new(out, protocol).error(TOO_LONG);
    }
    // A long reply is neither moved while it is written, nor does it take more than it needs.
    out.reserve(bytes + items * ITEM_HEADER_BYTES_MAX);
    write_value(reply, &mut Writer::new(out, protocol));
}

fn write_value(reply: &Reply, writer: &mut Writer<'_>) {
    match reply {
        Reply::Ok => writer.ok(),
        Reply::Int(value) => writer.integer(*value),
        Reply::Nil => writer.nil(),
        Reply::Bulk(bytes) => writer.bulk(bytes),
        Reply::Simple(text) => writer.simple(text),
        Reply::Error(text) => writer.error(text),
        Reply::Array(items) => {
            writer.array(items.len());
            for item in items {
                write_value(item, writer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: &Reply, rendering: Rendering) -> String {
        let mut out = Vec::new();
        write(reply, rendering, 100, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_reply_has_its_form_in_both_protocols() {
        let array = Reply::Array(vec![Reply::bulk(b"applied"), Reply::Array(vec![]), Reply::Nil]);
        let cases = [
            (Reply::Ok, "+OK\r\n", "+OK\r\n"),
            (Reply::Int(-7), ":-7\r\n", ":-7\r\n"),
            (Reply::Nil, "$-1\r\n", "_\r\n"),
            (Reply::bulk(b"a\r\nb"), "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"),
            (Reply::Simple("string"), "+string\r\n", "+string\r\n"),
            (Reply::error("ERR no"), "-ERR no\r\n", "-ERR no\r\n"),
            (array, "*3\r\n$7\r\napplied\r\n*0\r\n$-1\r\n", "*3\r\n$7\r\napplied\r\n*0\r\n_\r\n"),
        ];
        for (reply, resp2, resp3) in cases {
            assert_eq!(written(&reply, Rendering::Resp2), resp2);
            assert_eq!(written(&reply, Rendering::Resp3), resp3);
            assert_eq!(written(&reply, Rendering::Silent), "");
        }
    }

    #[test]
    fn a_reply_over_the_limit_is_an_error_in_its_place() {
        let long = Reply::Array(vec![Reply::bulk(&[b'x'; 40]); 3]);
        assert!(written(&long, Rendering::Resp2).starts_with("-ERR the reply is longer"));
    }
}
