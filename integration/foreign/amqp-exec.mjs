// A handler behind a command that wants every header as it was sent, at every
// attempt.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { seen } from "./amqp-message.mjs";
import { handle } from "./handle.mjs";

const body = readFileSync(0, "utf8");
if (body !== "not json") {
  const got = JSON.parse(process.env.HOLDFAST_HEADERS);
  delete got["Amqp-Typed-Headers"];
  const odd = [...new Set([...Object.keys(got), ...Object.keys(seen)])].filter((n) => JSON.stringify(got[n]) !== JSON.stringify(seen[n]));
  assert.deepEqual(odd.map((n) => [n, got[n]]), [], "headers that differ");
  assert.equal(process.env.HOLDFAST_CONTENT_TYPE, "application/json");
  assert.equal(process.env.HOLDFAST_SUBJECT, "orders.placed");
}
const outcome = handle("exec", process.env.HOLDFAST_ID, Number(process.env.HOLDFAST_ATTEMPT), body);
if (outcome !== "ok") console.error(`order 4711 is ${outcome}`);
process.exit({ ok: 0, retry: 75, permanent: 65 }[outcome]);
