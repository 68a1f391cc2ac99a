// Takes the message with an ID out of a queue, wants it whole, and puts all that
// it took back: node amqp-look.mjs URL QUEUE ID
import amqp from "amqplib";
import { whole } from "./amqp-message.mjs";

const [url, queue, id] = process.argv.slice(2);
const connection = await amqp.connect(url);
const channel = await connection.createChannel();
await channel.prefetch(1000);
const found = await new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error(`${queue} has no message ${id}`)), 20_000).unref();
  channel.consume(queue, (m) => m.properties.messageId === id && resolve(m), { consumerTag: "look" });
});
whole(found);
channel.nackAll(true);
await channel.cancel("look");
await channel.close();
await connection.close();
