//! The figures of other systems in the same rows, to print beside ours.
//!
//! "Here" is the same design in Go (heartbeat 125 ms, election timeout 1 000 to 1 999 ms), one run
//! in real time on two cores; the key/value rows in a release build, which is the fair baseline.
//! "Race" is the same with the race detector on. "Report" is what the authors of the design
//! printed; their key/value rows ran with the race detector on.

/// The figures of one row. Absent where none was printed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Figures {
    /// Seconds of real time.
    pub seconds: f64,
    /// RPCs, lost ones included.
    pub rpcs: Option<u64>,
    /// Bytes of requests sent and replies delivered.
    pub bytes: Option<u64>,
    /// Commands agreed on, or operations of clerks.
    pub ops: u64,
}

/// What others did in one row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Reference {
    /// The suite.
    pub suite: &'static str,
    /// The row.
    pub test: &'static str,
    /// The baseline.
    pub here: Option<Figures>,
    /// The baseline with the race detector on.
    pub race: Option<Figures>,
    /// The report.
    pub report: Option<Figures>,
}

impl Reference {
    /// The figures of a row, if there are any.
    pub(super) fn of(suite: &str, test: &str) -> Option<&'static Self> {
        REFERENCE.iter().find(|reference| reference.suite == suite && reference.test == test)
    }
}

const fn of(seconds: f64, rpcs: u64, bytes: u64, ops: u64) -> Figures {
    Figures { seconds, rpcs: Some(rpcs), bytes: Some(bytes), ops }
}

const fn kv(seconds: f64, rpcs: Option<u64>, ops: u64) -> Figures {
    Figures { seconds, rpcs, bytes: None, ops }
}

const fn raft(
    suite: &'static str,
    test: &'static str,
    here: Figures,
    report: Option<Figures>,
) -> Reference {
    Reference { suite, test, here: Some(here), race: None, report }
}

/// All rows.
#[rustfmt::skip]
pub(super) const REFERENCE: &[Reference] = &[
    raft("2A", "initial election", of(3.6, 44, 12550, 0), None),
    raft("2A", "election after network failure", of(7.5, 123, 26001, 0), None),
    raft("2A", "multiple elections", of(7.6, 455, 103096, 0), None),
    raft("2B", "basic agreement", of(1.8, 16, 4602, 3), None),
    raft("2B", "RPC byte count", of(2.5, 48, 114598, 11), None),
    raft("2B", "agreement despite follower disconnection", of(6.4, 78, 21550, 7), None),
    raft("2B", "no agreement if too many followers disconnect", of(4.9, 127, 30181, 3), None),
    raft("2B", "concurrent Start()s", of(1.9, 12, 3472, 6), None),
    raft("2B", "rejoin of partitioned leader", of(8.2, 149, 37496, 4), None),
    raft("2B", "leader backs up quickly over incorrect follower logs", of(20.4, 1393, 1104878, 102), None),
    raft("2B", "RPC counts aren't too high", of(3.4, 40, 11940, 12), None),
    raft("2C", "basic persistence", of(8.2, 98, 23959, 6), None),
    raft("2C", "more persistence", of(22.5, 919, 206425, 16), None),
    raft("2C", "partitioned leader and one follower crash, leader restarts", of(3.4, 33, 8371, 4), None),
    raft("2C", "Figure 8", of(30.3, 452, 100558, 20), None),
    raft("2C", "unreliable agreement", of(2.5, 320, 113452, 246), None),
    raft("2C", "Figure 8 (unreliable)", of(39.7, 2396, 6514214, 141), None),
    raft("2C", "churn", of(16.1, 3768, 2338897, 1667), None),
    raft("2C", "unreliable churn", of(16.1, 2475, 907902, 877), None),
    raft("2D", "snapshots basic", of(2.3, 704, 226956, 251), Some(of(5.4, 183, 66206, 251))),
    raft("2D", "install snapshots (disconnect)", of(53.4, 1028, 282287, 355), Some(of(55.4, 1071, 292516, 355))),
    raft("2D", "install snapshots (disconnect+unreliable)", of(57.5, 1123, 290561, 344), Some(of(66.1, 1271, 325168, 344))),
    raft("2D", "install snapshots (crash)", of(46.0, 683, 192865, 388), Some(of(43.4, 687, 193483, 355))),
    raft("2D", "install snapshots (unreliable+crash)", of(52.3, 748, 200251, 344), Some(of(57.1, 771, 206500, 355))),
    Reference { suite: "3A", test: "one client", here: Some(kv(15.0, Some(34823), 3680)), race: Some(kv(15.1, Some(9366), 896)), report: Some(kv(15.1, Some(8264), 913)) },
    Reference { suite: "3A", test: "ops complete fast enough", here: Some(kv(2.5, None, 1001)), race: Some(kv(18.37, None, 1001)), report: None },
    Reference { suite: "3A", test: "many clients", here: Some(kv(15.2, Some(51798), 5005)), race: Some(kv(15.8, Some(9976), 1242)), report: Some(kv(15.5, Some(9773), 1187)) },
    Reference { suite: "3A", test: "unreliable net, many clients", here: Some(kv(15.6, Some(7459), 1433)), race: Some(kv(16.2, Some(5410), 954)), report: Some(kv(16.2, Some(5334), 906)) },
    Reference { suite: "3A", test: "concurrent append to same key, unreliable", here: Some(kv(1.9, Some(274), 52)), race: Some(kv(2.1, Some(292), 52)), report: Some(kv(1.8, Some(245), 52)) },
    Reference { suite: "3A", test: "progress in majority", here: Some(kv(1.4, Some(157), 2)), race: Some(kv(1.6, Some(158), 2)), report: Some(kv(1.3, Some(128), 2)) },
    Reference { suite: "3A", test: "no progress in minority", here: Some(kv(1.0, Some(192), 3)), race: Some(kv(1.0, Some(193), 3)), report: Some(kv(1.0, Some(193), 3)) },
    Reference { suite: "3A", test: "completion after heal", here: Some(kv(1.0, Some(53), 3)), race: Some(kv(1.0, Some(57), 3)), report: Some(kv(1.0, Some(51), 3)) },
    Reference { suite: "3A", test: "partitions, one client", here: Some(kv(22.5, Some(76489), 3354)), race: Some(kv(23.4, Some(27951), 701)), report: Some(kv(22.9, Some(14589), 785)) },
    Reference { suite: "3A", test: "partitions, many clients", here: Some(kv(23.2, Some(87352), 4474)), race: Some(kv(23.8, Some(34109), 1225)), report: Some(kv(23.2, Some(25916), 1087)) },
    Reference { suite: "3A", test: "restarts, one client", here: Some(kv(21.9, Some(90725), 3908)), race: Some(kv(22.4, Some(24567), 898)), report: Some(kv(22.0, Some(18722), 870)) },
    Reference { suite: "3A", test: "restarts, many clients", here: Some(kv(21.4, Some(162655), 5262)), race: Some(kv(22.5, Some(34247), 1242)), report: Some(kv(22.9, Some(24752), 1166)) },
    Reference { suite: "3A", test: "unreliable net, restarts, many clients", here: Some(kv(22.3, Some(9127), 1365)), race: Some(kv(23.3, Some(7106), 959)), report: Some(kv(24.3, Some(6767), 891)) },
    Reference { suite: "3A", test: "restarts, partitions, many clients", here: Some(kv(28.9, Some(165730), 5012)), race: Some(kv(30.0, Some(41237), 1132)), report: Some(kv(29.8, Some(29361), 1046)) },
    Reference { suite: "3A", test: "unreliable net, restarts, partitions, many clients", here: Some(kv(29.7, Some(6936), 922)), race: Some(kv(29.8, Some(6347), 833)), report: Some(kv(30.0, Some(5881), 876)) },
    Reference { suite: "3A", test: "unreliable net, restarts, partitions, random keys, many clients", here: Some(kv(31.7, Some(20034), 1965)), race: Some(kv(34.8, Some(11730), 1213)), report: Some(kv(33.4, Some(13429), 947)) },
    Reference { suite: "3B", test: "InstallSnapshot RPC", here: Some(kv(2.3, Some(18183), 63)), race: Some(kv(6.1, Some(5649), 63)), report: Some(kv(4.4, Some(3847), 63)) },
    Reference { suite: "3B", test: "snapshot size is reasonable", here: Some(kv(1.4, Some(21645), 800)), race: Some(kv(2.2, Some(6661), 800)), report: Some(kv(2.4, Some(6281), 800)) },
    Reference { suite: "3B", test: "ops complete fast enough", here: Some(kv(1.9, None, 1001)), race: Some(kv(2.88, None, 1001)), report: None },
    Reference { suite: "3B", test: "restarts, snapshots, one client", here: Some(kv(23.9, Some(287466), 45946)), race: Some(kv(21.8, Some(51876), 7367)), report: Some(kv(21.9, Some(46775), 6970)) },
    Reference { suite: "3B", test: "restarts, snapshots, many clients", here: Some(kv(21.6, Some(272948), 38882)), race: Some(kv(22.9, Some(33908), 5579)), report: Some(kv(22.2, Some(44291), 7575)) },
    Reference { suite: "3B", test: "unreliable net, snapshots, many clients", here: Some(kv(15.7, Some(7575), 1416)), race: Some(kv(15.8, Some(7342), 1361)), report: Some(kv(15.9, Some(6845), 1281)) },
    Reference { suite: "3B", test: "unreliable net, restarts, snapshots, many clients", here: Some(kv(22.7, Some(9472), 1453)), race: Some(kv(23.2, Some(9240), 1344)), report: Some(kv(23.2, Some(8272), 1260)) },
    Reference { suite: "3B", test: "unreliable net, restarts, partitions, snapshots, many clients", here: Some(kv(30.4, Some(8562), 969)), race: Some(kv(29.8, Some(6797), 674)), report: Some(kv(30.2, Some(6377), 587)) },
    Reference { suite: "3B", test: "unreliable net, restarts, partitions, snapshots, random keys, many clients", here: Some(kv(31.8, Some(21192), 1998)), race: Some(kv(34.2, Some(18477), 1648)), report: Some(kv(32.1, Some(17542), 1772)) },
];
