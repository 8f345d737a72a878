//! The bytes of commands. Each command is a text made once, in which only the key's number changes.

use bytes::Bytes;
use sampan_base::Rng;
use sampan_resp::write_command;

use crate::keys::Keys;
use crate::mix::{Mix, Op};
use crate::plan::Plan;

/// Digits of a key's number: with its prefix 16 bytes, as `redis-benchmark` names its keys.
const DIGITS: usize = 12;

/// Chooses and writes the commands of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    rng: Rng,
    mix: Mix,
    keys: Keys,
    templates: [Template; Op::ALL.len()],
}

/// A command as it is sent, and where its key's digits are.
#[derive(Clone, Debug)]
struct Template {
    bytes: Vec<u8>,
    digits_at: Option<usize>,
}

/// The name of a key.
pub(crate) fn key(op: Op, number: u64) -> String {
    let prefix = if op == Op::Incr { "counter:" } else { "key:" };
    format!("{prefix}{number:012}")
}

/// A value of this length: printable, and nothing that packs well.
pub(crate) fn value(length_bytes: usize, seed: u64) -> Bytes {
    let mut rng = Rng::seeded(seed);
    let letter = |_| {
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[rng.below(64) as usize]
    };
    (0..length_bytes).map(letter).collect()
}

impl Requests {
    /// For the connection with this number.
    pub(crate) fn new(plan: &Plan, connection: u64) -> Self {
        let value = value(plan.value_bytes, plan.seed);
        Self {
            rng: Rng::seeded(sampan_base::rng::mix(plan.seed ^ (connection << 20))),
            mix: plan.mix.clone(),
            keys: Keys::new(plan.keys, plan.distribution),
            templates: Op::ALL.map(|op| Template::new(op, &value)),
        }
    }

    /// What the `place`-th command of the run is: its kind and its key's number.
    pub(crate) fn choose(&mut self, place: u64) -> (Op, u64) {
        let op = self.mix.pick(&mut self.rng);
        (op, self.keys.pick(&mut self.rng, place))
    }

    /// Appends the `place`-th command of the run; its kind.
    pub(crate) fn push(&mut self, place: u64, out: &mut Vec<u8>) -> Op {
        let (op, key) = self.choose(place);
        let start = out.len();
        let Template { bytes, digits_at } = &self.templates[op as usize];
        out.extend_from_slice(bytes);
        if let Some(at) = digits_at {
            let mut rest = key;
            for digit in out[start + at..start + at + DIGITS].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        op
    }
}

impl Template {
    fn new(op: Op, value: &[u8]) -> Self {
        let key = key(op, 0);
        let mut bytes = Vec::new();
        match op {
            Op::Ping => write_command(&mut bytes, &["PING"]),
            Op::Get => write_command(&mut bytes, &["GET", &key]),
            Op::Incr => write_command(&mut bytes, &["INCR", &key]),
            Op::Del => write_command(&mut bytes, &["DEL", &key]),
            Op::Exists => write_command(&mut bytes, &["EXISTS", &key]),
            Op::Set => write_command(&mut bytes, &[b"SET", key.as_bytes(), value]),
        }
        let found = bytes.windows(key.len()).position(|window| window == key.as_bytes());
        Self { digits_at: found.map(|at| at + key.len() - DIGITS), bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Distribution;
    use crate::plan::tests::plan;

    #[test]
    fn commands_are_written_as_the_protocol_asks() {
        let mut plan = plan();
        plan.distribution = Distribution::Sequential;
        plan.keys = 1_000_000_000_000;
        plan.value_bytes = 3;
        let sent = |plan: &Plan, place| {
            let mut out = b"before".to_vec();
            Requests::new(plan, 0).push(place, &mut out);
            String::from_utf8(out).unwrap()
        };
        let value = String::from_utf8(value(3, plan.seed).to_vec()).unwrap();
        assert_eq!(
            sent(&plan, 987_654_321_012),
            format!("before*3\r\n$3\r\nSET\r\n$16\r\nkey:987654321012\r\n$3\r\n{value}\r\n")
        );
        plan.mix = Mix::only(Op::Incr);
        assert_eq!(sent(&plan, 7), "before*2\r\n$4\r\nINCR\r\n$20\r\ncounter:000000000007\r\n");
        plan.mix = Mix::only(Op::Ping);
        assert_eq!(sent(&plan, 7), "before*1\r\n$4\r\nPING\r\n");
    }

    #[test]
    fn connections_do_not_send_the_same_and_a_seed_repeats() {
        let chosen = |connection, seed| {
            let mut plan = plan();
            plan.seed = seed;
            let mut requests = Requests::new(&plan, connection);
            (0..20).map(|place| requests.choose(place).1).collect::<Vec<_>>()
        };
        assert_eq!(chosen(0, 1), chosen(0, 1));
        assert_ne!(chosen(0, 1), chosen(1, 1));
        assert_ne!(chosen(0, 1), chosen(0, 2));
    }
}
