"""redis-py with its defaults (RESP3) against every port given; exits non-zero at the first fault."""

import sys

import redis

BYTES = bytes(range(256))


def use(port):
    r = redis.Redis(port=port)
    key = lambda name: f"py:{port}:{name}"

    assert r.ping()
    assert r.set(key("a"), "1") and r.get(key("a")) == b"1"
    assert r.get(key("none")) is None
    assert r.set(key("a"), "2", nx=True) is None
    assert r.set(key("bin"), BYTES) and r.get(key("bin")) == BYTES
    assert r.append(key("log"), "ab") == 2 and r.append(key("log"), "cd") == 4
    assert [r.incr(key("n")), r.incrby(key("n"), 41), r.decr(key("n"))] == [1, 42, 41]
    assert r.mset({key("x"): 1, key("y"): 2}) and r.mget(key("x"), key("none"), key("y")) == [b"1", None, b"2"]
    assert r.set(key("t"), "v", ex=100) and 90 <= r.ttl(key("t")) <= 100
    assert r.persist(key("t")) and r.ttl(key("t")) == -1
    assert r.exists(key("a"), key("none")) == 1 and r.delete(key("a"), key("none")) == 1
    with r.pipeline(transaction=False) as pipe:
        for _ in range(200):
            pipe.incr(key("pipe"))
        assert pipe.execute() == list(range(1, 201))
    session = r.execute_command("SESSION", "OPEN")
    once = ("ONCE", session, 1, "INCR", key("once"))
    assert [r.execute_command(*once), r.execute_command(*once)] == [1, 1]
    assert r.execute_command("OUTCOME", session, 1) == [b"applied", 1]
    assert r.execute_command("SESSION", "CLOSE", session) in (True, b"OK", "OK")
    assert r.info("raft")["raft_role"] in ("leader", "follower")
    try:
        r.incr(key("log"))
        raise AssertionError("INCR of text")
    except redis.ResponseError as error:
        assert "not an integer" in str(error), error
    r.close()


for argument in sys.argv[1:]:
    use(int(argument))
print(f"redis-py {redis.__version__}: ok")
