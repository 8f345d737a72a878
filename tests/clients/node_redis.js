// node-redis with its defaults (RESP3) against every port given; exits non-zero at the first fault.
"use strict";
const assert = require("node:assert/strict");
const { createClient, RESP_TYPES } = require("redis");
const { version } = require("redis/package.json");

const BYTES = Buffer.from(Array.from({ length: 256 }, (_, i) => i));

async function use(port) {
  const r = createClient({ url: `redis://127.0.0.1:${port}` });
  r.on("error", (error) => assert.fail(error));
  await r.connect();
  const key = (name) => `node:${port}:${name}`;

  assert.equal(await r.set(key("a"), "1"), "OK");
  assert.equal(await r.get(key("a")), "1");
  assert.equal(await r.get(key("none")), null);
  assert.equal(await r.set(key("a"), "2", { condition: "NX" }), null);
  await r.set(key("bin"), BYTES);
  const buffers = r.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  assert.deepEqual(await buffers.get(key("bin")), BYTES);
  assert.deepEqual([await r.append(key("log"), "ab"), await r.append(key("log"), "cd")], [2, 4]);
  assert.deepEqual([await r.incr(key("n")), await r.incrBy(key("n"), 41)], [1, 42]);
  await r.mSet([key("x"), "1", key("y"), "2"]);
  assert.deepEqual(await r.mGet([key("x"), key("none"), key("y")]), ["1", null, "2"]);
  await r.set(key("t"), "v", { expiration: { type: "EX", value: 100 } });
  const ttl = await r.ttl(key("t"));
  assert.ok(ttl >= 90 && ttl <= 100, `ttl ${ttl}`);
  assert.equal(await r.del([key("a"), key("none")]), 1);
  // Commands of one tick are one pipeline.
  const counts = await Promise.all(Array.from({ length: 200 }, () => r.incr(key("pipe"))));
  assert.deepEqual(counts, Array.from({ length: 200 }, (_, i) => i + 1));
  const session = await r.sendCommand(["SESSION", "OPEN"]);
  const once = ["ONCE", String(session), "1", "INCR", key("once")];
  assert.deepEqual([await r.sendCommand(once), await r.sendCommand(once)], [1, 1]);
  assert.deepEqual(await r.sendCommand(["OUTCOME", String(session), "1"]), ["applied", 1]);
  await assert.rejects(r.incr(key("log")), /not an integer/);
  assert.match(await r.info("raft"), /raft_role:(leader|follower)/);
  await r.close();
}

(async () => {
  for (const port of process.argv.slice(2)) await use(Number(port));
  console.log(`node-redis ${version}: ok`);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
