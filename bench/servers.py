"""The servers that are compared: started on 127.0.0.1 with their data under one folder, stopped by
their process ids. Whatever ends the comparison ends them."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

PATIENCE_SECONDS = 60
PR_SET_PDEATHSIG = 1


def _end_with_parent():
    # kill -9 of the comparison must not leave servers behind either.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def start(args, log):
    """A process of its own session, so that a Ctrl-C on the terminal is ours to handle."""
    with open(log, "ab") as out:
        return subprocess.Popen(
            args, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True, preexec_fn=_end_with_parent)


def stop(processes):
    """SIGTERM to all, then SIGKILL to those that stay."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(12)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def within(what, poll, must_hold=lambda: None):
    """Polls until there is an answer; `must_hold` raises when there cannot be one any more."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        answer = poll()
        if answer:
            return answer
        must_hold()
        time.sleep(0.05)
    raise RuntimeError(f"not within {PATIENCE_SECONDS} s: {what}")


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pids):
    """Processor time of processes so far, user and system together."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as stat:
            ticks += sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def children_of(parent):
    children = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if int(stat.read().rsplit(")", 1)[1].split()[1]) == parent:
                    children.append(int(pid))
        except OSError:
            pass  # It has ended meanwhile.
    return children


class Server:
    """What all have: a folder, processes, and an end."""

    def __init__(self, folder):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        self.folder = folder
        self.processes = []

    def must_live(self):
        """A server that ended by itself is not waited for: its last words say why."""
        for process in self.processes:
            if process.poll() is not None:
                with open(f"{self.folder}/log", errors="replace") as log:
                    raise RuntimeError(f"{process.args[0]} has ended: {log.read()[-400:].strip()}")

    def come_up(self, what, poll):
        """What the poll answers, as the last step of a start; or all ends."""
        try:
            return within(what, poll, self.must_live)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        stop(self.processes)
        shutil.rmtree(self.folder, ignore_errors=True)


class Sampan(Server):
    """`sampan cluster`, with its default settings unless told otherwise."""

    fsync = "every write, on a quorum of {nodes}, before its reply"

    def __init__(self, binary, folder, port, nodes, flags=()):
        super().__init__(folder)
        self.binary = binary
        self.fsync = self.fsync.format(nodes=nodes)
        self.addresses = [f"127.0.0.1:{port + node}" for node in range(nodes)]
        self.processes = [start(
            [binary, "cluster", "--nodes", str(nodes), "--dir", f"{folder}/data",
             "--port", str(port), *(["--", *flags] if flags else [])], f"{folder}/log")]
        self.come_up("a leader of Sampan", self.is_up)

    def _status(self):
        return subprocess.run(
            [self.binary, "status", "--servers", ",".join(self.addresses), "--timeout-ms", "1000"],
            capture_output=True, text=True)

    def is_up(self):
        return self._status().returncode == 0

    def is_whole(self):
        """All are up, and none has anything to catch up with."""
        status = self._status()
        return status.returncode == 0 and all(
            line[2] in ("leader", "follower") and line[6] == "0" for line in self._columns(status))

    @staticmethod
    def _columns(status):
        return [line.split() for line in status.stdout.splitlines()[1:]]

    def node_lines(self):
        """What `sampan status` says of each node, in columns."""
        return self._columns(self._status())

    def _nodes(self, role):
        return [line[1] for line in self.node_lines() if len(line) > 2 and line[2] == role]

    def leader(self):
        return within("a leader of Sampan", lambda: self._nodes("leader"))[0]

    def followers(self):
        return within("a follower of Sampan", lambda: self._nodes("follower"))

    def pids(self):
        """Of the nodes, in the order of their addresses."""
        by_address = {}
        for pid in children_of(self.processes[0].pid):
            with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                args = cmdline.read().decode().split("\0")
            if "--listen" in args:
                by_address[args[args.index("--listen") + 1]] = pid
        return [by_address[address] for address in self.addresses]

    def pid_of(self, address):
        return self.pids()[self.addresses.index(address)]

    @contextlib.contextmanager
    def unsupervised(self):
        """A node that dies meanwhile is started again afterwards."""
        self.processes[0].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.processes[0].send_signal(signal.SIGCONT)


class Wire:
    """Where one node reaches another: connections to a port are passed on to another one, until the wire
    is cut. Then nothing passes and nothing closes; what was sent waits, as it does in the kernel of a
    sender whose segments get lost, and goes on when the wire is mended."""

    def __init__(self, port, to_port):
        self.to_port = to_port
        self.whole = threading.Event()
        self.whole.set()
        self.listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        self.whole.clear()

    def mend(self):
        self.whole.set()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)  # To close it would not wake who accepts.
        self.listener.close()
        self.whole.set()

    def _accept(self):
        with contextlib.suppress(OSError):  # It was closed.
            while True:
                self._connect(self.listener.accept()[0])

    def _connect(self, near):
        self.whole.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self.to_port))
        except OSError:
            near.close()
            return
        for end in [near, far]:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for ends in [(near, far), (far, near)]:
            threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.whole.wait()
                sink.sendall(data)
        self.whole.wait()
        for end in [source, sink]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Wired(Sampan):
    """Three nodes that reach each other over wires which can be cut, with default settings unless told
    otherwise."""

    def __init__(self, binary, folder, port, flags):
        Server.__init__(self, folder)
        self.binary = binary
        self.addresses = [f"127.0.0.1:{port + node}" for node in range(3)]
        pairs = [(from_, to) for from_ in range(3) for to in range(3) if from_ != to]
        ports = {pair: port + 10_000 + at for at, pair in enumerate(pairs)}
        peer_port = port + 10_000 + len(pairs)
        self.wires = {pair: Wire(ports[pair], peer_port + pair[1]) for pair in pairs}
        self.processes = [start(
            [binary, "server", "--node-id", str(node + 1), "--cluster-id", "c07",
             "--data-dir", f"{folder}/{node + 1}", "--listen", self.addresses[node],
             "--peer-listen", f"127.0.0.1:{peer_port + node}",
             "--peer", ",".join(f"{to + 1}=127.0.0.1:{ports[node, to]}" for to in range(3) if to != node),
             *flags], f"{folder}/log")
            for node in range(3)]
        self.come_up("a leader of Sampan", self.is_up)

    def pids(self):
        return [process.pid for process in self.processes]

    def wires_of(self, address):
        node = self.addresses.index(address)
        return [wire for pair, wire in self.wires.items() if node in pair]

    def __exit__(self, *_):
        for wire in self.wires.values():
            wire.close()
        super().__exit__()


class Redis(Server):
    """One `redis-server` with an append-only file."""

    def __init__(self, folder, port, fsync="always"):
        super().__init__(folder)
        self.addresses = [f"127.0.0.1:{port}"]
        self.port = port
        self.processes = [start(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", folder,
             "--save", "", "--appendonly", "yes", "--appendfsync", fsync,
             "--maxclients", "10000"], f"{folder}/log")]
        self.come_up("an answer of Redis", lambda: b"PONG" in self._say(b"PING\r\n"))

    def _say(self, line):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(line)
                return connection.recv(1024)
        except OSError:
            return b""

    def set_fsync(self, policy):
        assert b"OK" in self._say(b"CONFIG SET appendfsync " + policy.encode() + b"\r\n")

    def empty(self):
        self._say(b"FLUSHALL\r\n")

    def leader(self):
        return self.addresses[0]

    def pids(self):
        return [self.processes[0].pid]


class Etcd(Server):
    """Three members, with their default settings."""

    fsync = "every write, on a quorum of 3, before its reply"

    def __init__(self, folder, port):
        super().__init__(folder)
        clients = [f"http://127.0.0.1:{port + node}" for node in range(3)]
        peers = [f"http://127.0.0.1:{port + 10 + node}" for node in range(3)]
        cluster = ",".join(f"n{node}={peer}" for node, peer in enumerate(peers))
        self.addresses = [client.removeprefix("http://") for client in clients]
        self.processes = [start(
            ["etcd", "--name", f"n{node}", "--data-dir", f"{folder}/n{node}",
             "--listen-client-urls", clients[node], "--advertise-client-urls", clients[node],
             "--listen-peer-urls", peers[node], "--initial-advertise-peer-urls", peers[node],
             "--initial-cluster", cluster, "--initial-cluster-state", "new"],
            f"{folder}/log") for node in range(3)]
        self._leader = self.come_up("a leader of etcd", self._find_leader)

    def _find_leader(self):
        found = subprocess.run(
            ["etcdctl", "--endpoints", ",".join(self.addresses), "endpoint", "status"],
            capture_output=True, text=True, env={**os.environ, "ETCDCTL_API": "3"})
        lines = [line.split(", ") for line in found.stdout.splitlines()]
        leaders = [line[0] for line in lines if len(line) > 4 and line[4] == "true"]
        return leaders[0] if len(lines) == 3 and leaders else None

    def leader(self):
        return self._leader

    def pids(self):
        return [process.pid for process in self.processes]
