// What both handlers do with a message: a line in the ledger, then the outcome.
// A message is poison until the file named by MENDED exists.
import { appendFileSync, existsSync } from "node:fs";

export function handle(how, id, attempt, body) {
  let order;
  try {
    order = JSON.parse(body);
  } catch {
    record(how, id, attempt, "undecodable");
    return "permanent";
  }
  if (order.text !== "grüße") throw new Error(`body of ${id} is damaged: ${body}`);
  const outcome = outcomeOf(order.kind, attempt);
  record(how, order.id, attempt, outcome);
  return outcome;
}

function outcomeOf(kind, attempt) {
  if (kind === "poison" && !existsSync(process.env.MENDED)) return "permanent";
  if (kind === "flaky" && attempt < 3) return "retry";
  return "ok";
}

function record(how, id, attempt, outcome) {
  appendFileSync(process.env.LEDGER, JSON.stringify({ how, id, attempt, outcome }) + "\n");
}
