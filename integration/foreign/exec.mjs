// A handler behind a command: the body on stdin, the rest in the environment.
import { readFileSync } from "node:fs";
import { handle } from "./handle.mjs";

const headers = JSON.parse(process.env.HOLDFAST_HEADERS);
const body = readFileSync(0, "utf8");
if (body !== "not json" && (headers.Tenant?.[0] !== "blue" || headers.Tag?.join() !== "first,second")) {
  console.error(`headers are damaged: ${process.env.HOLDFAST_HEADERS}`);
  process.exit(1);
}
const outcome = handle("exec", process.env.HOLDFAST_ID, Number(process.env.HOLDFAST_ATTEMPT), body);
if (outcome !== "ok") console.error(`order 4711 is ${outcome}`);
process.exit({ ok: 0, retry: 75, permanent: 65 }[outcome]);
