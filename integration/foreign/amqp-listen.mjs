// Another consumer of the same exchange, with a queue of its own:
// node amqp-listen.mjs URL EXCHANGE KEY LEDGER
// It prints "ready", and writes a line for each message that it gets.
import { appendFileSync } from "node:fs";
import amqp from "amqplib";
import { whole } from "./amqp-message.mjs";

const [url, exchange, key, ledger] = process.argv.slice(2);
const connection = await amqp.connect(url);
const channel = await connection.createChannel();
const { queue } = await channel.assertQueue("", { exclusive: true });
await channel.bindQueue(queue, exchange, key);
await channel.consume(queue, (m) => {
  const id = m.properties.messageId ?? "none";
  let outcome = "ok";
  try {
    if (id !== "none") whole(m);
  } catch (e) {
    outcome = e.message;
  }
  appendFileSync(ledger, JSON.stringify({ how: "listen", id, attempt: 1, outcome }) + "\n");
  channel.ack(m);
});
console.log("ready");
