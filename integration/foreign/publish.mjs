// Publishes messages with the JavaScript client: node publish.mjs URL SUBJECT COUNT [PREFIX]
// Every tenth is poison and every fifth else is flaky. Prints one ID a line.
import { connect, headers } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";

const [url, subject, count, prefix = "m"] = process.argv.slice(2);
const nc = await connect({ servers: url });
const js = jetstream(nc);
for (let i = 1; i <= Number(count); i++) {
  const kind = i % 10 === 0 ? "poison" : i % 5 === 0 ? "flaky" : "ok";
  const id = `${prefix}-${i}`;
  const h = headers();
  h.append("Tenant", "blue");
  h.append("Tag", "first");
  h.append("Tag", "second");
  const ack = await js.publish(subject, JSON.stringify({ id, kind, text: "grüße" }), { msgID: id, headers: h });
  if (ack.duplicate) throw new Error(`${id} is a duplicate`);
  console.log(id);
}
// One without an ID, without headers and not JSON: a plain core publish.
nc.publish(subject, "not json");
await nc.flush();
await nc.close();
