#!/usr/bin/env python3
"""A closed loop of Put or Range against one etcd member, as gRPC over HTTP/2 written by hand: a
client library in Python would take more of the machine than etcd does. What it takes is reported.

    etcd_load.py HOST:PORT put|get CLIENTS SECONDS [KEYS] [VALUE_BYTES]    prints one line of JSON"""

import json
import random
import resource
import selectors
import socket
import struct
import sys
import time

DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
WINDOW = (1 << 31) - 1


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    """A header field without indexing (RFC 7541, 6.2.2); a name is text or a static index."""
    named = bytes([name]) if isinstance(name, int) else b"\0" + bytes([len(name)]) + name.encode()
    if isinstance(name, int) and name > 14:
        named = bytes([15, name - 15])
    return named + bytes([len(value)]) + value.encode()


def field(number, payload):
    """A length-delimited protobuf field."""
    length, size = b"", len(payload)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + payload


class Client:
    def __init__(self, address, what):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), 5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        method = "Put" if what == "put" else "Range"
        # POST and http are in the static table; so are the names of path, authority, content-type.
        self.headers = b"\x83\x86" + b"".join([
            literal(4, f"/etcdserverpb.KV/{method}"), literal(1, address),
            literal(31, "application/grpc"), literal("te", "trailers")])
        settings = struct.pack(">HI", 4, WINDOW)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings)
                            + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW - 65535)))
        self.stream = -1
        self.input = b""
        self.sent_at = 0.0
        self.has_data = False

    def send(self, message):
        self.stream += 2
        self.has_data = False
        self.sent_at = time.perf_counter()
        body = b"\0" + struct.pack(">I", len(message)) + message
        self.socket.sendall(frame(HEADERS, END_HEADERS, self.stream, self.headers)
                            + frame(DATA, END_STREAM, self.stream, body))

    def receive(self):
        """True if the call ended well, False if not, None if it has not ended."""
        self.input += self.socket.recv(65536) or sys.exit("etcd closed a connection")
        ended, at = None, 0
        while len(self.input) - at >= 9:
            length = int.from_bytes(self.input[at:at + 3], "big")
            if len(self.input) - at < 9 + length:
                break
            kind, flags = self.input[at + 3], self.input[at + 4]
            payload = self.input[at + 9:at + 9 + length]
            at += 9 + length
            if kind == DATA:
                self.has_data |= length > 0
            elif kind == HEADERS and flags & END_STREAM:
                # An error comes as trailers alone, without a message.
                ended = self.has_data
            elif kind == SETTINGS and not flags & ACK:
                self.socket.sendall(frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                self.socket.sendall(frame(PING, ACK, 0, payload))
            elif kind == GOAWAY:
                sys.exit(f"etcd says goodbye: {payload!r}")
        self.input = self.input[at:]
        return ended


def main():
    address, what, clients, seconds = sys.argv[1:5]
    keys = int(sys.argv[5]) if len(sys.argv) > 5 else 100_000
    value = b"v" * (int(sys.argv[6]) if len(sys.argv) > 6 else 64)
    tail = field(2, value) if what == "put" else b""
    rng = random.Random(1)

    def message():
        return field(1, b"key:%012d" % rng.randrange(keys)) + tail

    selector = selectors.EpollSelector()
    for _ in range(int(clients)):
        client = Client(address, what)
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.send(message())
    start = time.perf_counter()
    end = start + float(seconds)
    latencies, failed, under_way = [], 0, int(clients)
    while under_way:
        events = selector.select(10)
        if not events:
            failed += under_way
            break
        for key, _ in events:
            ended = key.data.receive()
            if ended is None:
                continue
            now = time.perf_counter()
            if ended:
                latencies.append(now - key.data.sent_at)
            else:
                failed += 1
            if now < end:
                key.data.send(message())
            else:
                under_way -= 1
    took = time.perf_counter() - start
    latencies.sort()
    used = resource.getrusage(resource.RUSAGE_SELF)

    def at(percent):
        return 1e3 * latencies[min(len(latencies) - 1, int(len(latencies) * percent / 100))]

    print(json.dumps({
        "answered": len(latencies), "failed": failed, "per_second": len(latencies) / took,
        "p50_ms": at(50) if latencies else 0, "p99_ms": at(99) if latencies else 0,
        "client_cores": (used.ru_utime + used.ru_stime) / took}))


if __name__ == "__main__":
    main()
