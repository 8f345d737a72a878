// ioredis with its defaults (RESP3) against every port given; exits non-zero at the first fault.
"use strict";
const assert = require("node:assert/strict");
const Redis = require("ioredis");
const { version } = require("ioredis/package.json");

const BYTES = Buffer.from(Array.from({ length: 256 }, (_, i) => i));

async function use(port) {
  const r = new Redis({ port });
  r.on("error", (error) => assert.fail(error));
  const key = (name) => `io:${port}:${name}`;

  assert.equal(await r.set(key("a"), "1"), "OK");
  assert.equal(await r.get(key("a")), "1");
  assert.equal(await r.get(key("none")), null);
  assert.equal(await r.set(key("a"), "2", "NX"), null);
  await r.set(key("bin"), BYTES);
  assert.deepEqual(await r.getBuffer(key("bin")), BYTES);
  assert.deepEqual([await r.append(key("log"), "ab"), await r.append(key("log"), "cd")], [2, 4]);
  assert.deepEqual([await r.incr(key("n")), await r.incrby(key("n"), 41)], [1, 42]);
  await r.mset(key("x"), 1, key("y"), 2);
  assert.deepEqual(await r.mget(key("x"), key("none"), key("y")), ["1", null, "2"]);
  await r.set(key("t"), "v", "EX", 100);
  const ttl = await r.ttl(key("t"));
  assert.ok(ttl >= 90 && ttl <= 100, `ttl ${ttl}`);
  assert.equal(await r.del(key("a"), key("none")), 1);
  const pipe = r.pipeline();
  for (let i = 0; i < 200; i++) pipe.incr(key("pipe"));
  assert.deepEqual(await pipe.exec(), Array.from({ length: 200 }, (_, i) => [null, i + 1]));
  const session = await r.call("SESSION", "OPEN");
  const once = ["ONCE", session, 1, "INCR", key("once")];
  assert.deepEqual([await r.call(...once), await r.call(...once)], [1, 1]);
  assert.deepEqual(await r.call("OUTCOME", session, 1), ["applied", 1]);
  await assert.rejects(r.incr(key("log")), /not an integer/);
  assert.match(await r.info("raft"), /raft_role:(leader|follower)/);
  await r.quit();
}

(async () => {
  for (const port of process.argv.slice(2)) await use(Number(port));
  console.log(`ioredis ${version}: ok`);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
