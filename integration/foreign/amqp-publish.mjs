// Publishes messages with the JavaScript client of RabbitMQ:
// node amqp-publish.mjs URL EXCHANGE KEY COUNT PREFIX
// Every tenth is poison and every fifth else is flaky.
import amqp from "amqplib";
import { headers, properties } from "./amqp-message.mjs";

const [url, exchange, key, count, prefix] = process.argv.slice(2);
const connection = await amqp.connect(url);
const channel = await connection.createConfirmChannel();
channel.on("return", (m) => {
  throw new Error(`${m.properties.messageId} was returned: ${m.fields.replyText}`);
});
for (let i = 1; i <= Number(count); i++) {
  const kind = i % 10 === 0 ? "poison" : i % 5 === 0 ? "flaky" : "ok";
  const id = `${prefix}-${i}`;
  channel.publish(exchange, key, Buffer.from(JSON.stringify({ id, kind, text: "grüße" })), { ...properties, headers, messageId: id });
}
// One without an ID, without headers and not JSON.
channel.publish(exchange, key, Buffer.from("not json"), { mandatory: true });
await channel.waitForConfirms();
await connection.close();
