//! `sampan bench` as a process against a cluster: it has sent what it says, no more and no less.

use serde_json::Value;

use crate::harness::{Cluster, Ended, TempDir, block_on, run, sampan};

fn bench(cluster: &Cluster, args: &str) -> Ended {
    let mut command = sampan(["bench"]);
    command.args(args.split_whitespace());
    run(command.env("SAMPAN_SERVERS", cluster.addresses().join(",")), b"")
}

fn json(cluster: &Cluster, args: &str) -> Value {
    let ended = bench(cluster, &format!("{args} --json -"));
    assert_eq!(ended.code, Some(0), "{args}: {}\n{}", ended.stderr, ended.out());
    serde_json::from_str(ended.out()).unwrap()
}

/// The sum of all counters that `--mix incr` over ten keys has.
fn counted(cluster: &Cluster) -> u64 {
    block_on(async {
        let clerk = sampan_client::Clerk::connect(cluster.addresses()).await.unwrap();
        let values = clerk.mget((0..10).map(|key| format!("counter:{key:012}"))).await.unwrap();
        let number = |value: &[u8]| std::str::from_utf8(value).unwrap().parse::<u64>().unwrap();
        values.into_iter().flatten().map(|value| number(&value)).sum()
    })
}

#[test]
fn what_the_load_generator_counts_is_what_the_cluster_applied() {
    let cluster = Cluster::start("bench");
    let mut applied = 0;
    for (args, count) in [
        ("--mix incr --keys 10 -n 1000 -c 7 -P 9", 1_000),
        ("--mix incr --keys 10 -n 300 -c 3 -P 5 --clerk", 300),
        ("--mix incr --keys 10 -n 200 -c 3 --rate 1000", 200),
        ("--mix incr --keys 10 -n 200 -c 3 -P 8 --rate 1000 --clerk", 200),
    ] {
        let report = json(&cluster, args);
        assert_eq!(
            (&report["sent"], &report["answered"]),
            (&count.into(), &count.into()),
            "{args}"
        );
        assert_eq!(report["latencies"][0]["count"], count, "{args}");
        applied += count;
        assert_eq!(counted(&cluster), applied, "{args}");
    }
    let filled = json(&cluster, "--mix get --keys 500 --fill -n 2000 -P 16");
    assert_eq!((&filled["answered"], &filled["misses"]), (&2_000.into(), &0.into()));
    let missed = json(&cluster, "--mix get --keys 1000 --distribution sequential -n 1000 -P 16");
    assert_eq!(missed["misses"], 500, "half of the keys were never written");
}

#[test]
fn results_are_kept_and_failures_have_exit_codes() {
    let cluster = Cluster::start("bench-files");
    let dir = TempDir::new("bench-results");
    let (svg, json) = (dir.path().join("plot.svg"), dir.path().join("result.json"));
    let files = format!("--svg {} --json {}", svg.display(), json.display());
    let ended = bench(&cluster, &format!("-n 500 -c 4 {files}"));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.out().contains("500 answered"), "{}", ended.out());
    assert!(std::fs::read_to_string(&svg).unwrap().contains("latency by percentile"));
    let kept: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(kept["answered"], 500);

    let fly = bench(&cluster, "--mix fly");
    assert_eq!(fly.code, Some(2));
    assert!(fly.stderr.contains("no command 'fly' to measure"), "{}", fly.stderr);
    bench(&cluster, "--rate 0").assert_one_error(2, &["rate: want 1"]);
    bench(&cluster, "--pipeline 2000 --clerk").assert_one_error(2, &["1024 calls"]);
    bench(&cluster, "--svg /nowhere/plot.svg").assert_one_error(2, &["/nowhere/plot.svg"]);
    let nobody = bench(&cluster, &format!("--servers 127.0.0.1:1 {files}"));
    nobody.assert_one_error(3, &["127.0.0.1:1"]);
    let still: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(still, kept, "a run that fails leaves the results of the last one");
    // Longer than any value may be.
    let failing = bench(&cluster, "--value-bytes 2000000 -n 10 -c 2");
    assert_eq!(failing.code, Some(1), "{}", failing.out());
    assert!(failing.out().contains("10 failed"), "{}", failing.out());
}
