use super::*;

struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sampan-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_new_directory_gets_the_defaults_and_remembers_them() {
    let dir = TempDir::new("layout-new");
    let first = Layout::settle(&dir.0, None, None).unwrap();
    assert_eq!((first.nodes, first.port), (3, 7001));
    assert_eq!(Layout::settle(&dir.0, None, None).unwrap(), first);
    assert_eq!(Layout::settle(&dir.0, Some(3), Some(7001)).unwrap(), first);
    assert_eq!(first.address(3), "127.0.0.1:7003");
    assert_eq!(first.peer_address(1), "127.0.0.1:17001");
}

#[test]
fn another_port_is_honoured_and_remembered() {
    let dir = TempDir::new("layout-port");
    let first = Layout::settle(&dir.0, None, None).unwrap();
    let moved = Layout::settle(&dir.0, None, Some(8001)).unwrap();
    assert_eq!(moved, Layout { port: 8001, ..first });
    assert_eq!(Layout::settle(&dir.0, None, None).unwrap(), moved);
}

#[test]
fn another_number_of_nodes_is_refused() {
    let dir = TempDir::new("layout-nodes");
    Layout::settle(&dir.0, Some(5), None).unwrap();
    let failure = Layout::settle(&dir.0, Some(3), None).unwrap_err();
    assert_eq!(failure.code, 2);
    assert!(failure.text.contains("holds a cluster of 5: want --nodes 5, or another --dir"));
    assert_eq!(Layout::settle(&dir.0, None, None).unwrap().nodes, 5);
}

#[test]
fn numbers_out_of_range_are_refused_and_nothing_is_written() {
    let dir = TempDir::new("layout-range");
    for (nodes, port, words) in [
        (Some(0), None, "--nodes is 0: want 1 to 64"),
        (Some(65), None, "--nodes is 65: want 1 to 64"),
        (None, Some(0), "--port is 0: want 1 to 55533"),
        (None, Some(55534), "--port is 55534: want 1 to 55533"),
    ] {
        let failure = Layout::settle(&dir.0, nodes, port).unwrap_err();
        assert!(failure.text.starts_with(words), "{failure}");
    }
    assert!(!dir.0.join(LAYOUT_FILE).exists());
    Layout::settle(&dir.0, None, Some(55533)).unwrap();
}

#[test]
fn a_damaged_or_lost_layout_is_never_made_anew() {
    let dir = TempDir::new("layout-damaged");
    Layout::settle(&dir.0, None, None).unwrap();
    fs::write(dir.0.join(LAYOUT_FILE), "nodes = 3").unwrap();
    assert_eq!(Layout::settle(&dir.0, None, None).unwrap_err().code, 5);
    fs::remove_file(dir.0.join(LAYOUT_FILE)).unwrap();
    fs::create_dir(node_dir(&dir.0, 1)).unwrap();
    let failure = Layout::settle(&dir.0, None, None).unwrap_err();
    assert_eq!(failure.code, 5);
    assert!(failure.text.contains("holds nodes but no cluster.toml"), "{failure}");
}

#[test]
fn a_directory_is_used_by_one_cluster_at_a_time() {
    let dir = TempDir::new("layout-lock");
    let lock = DirLock::take(&dir.0).unwrap();
    let failure = DirLock::take(&dir.0).unwrap_err();
    assert_eq!(failure.code, 7);
    assert!(failure.text.contains(&format!("pid {}", std::process::id())), "{failure}");
    drop(lock);
    DirLock::take(&dir.0).unwrap();
}
