// Publishes a message to a queue, takes it, and rejects it:
// node amqp-reject.mjs URL QUEUE ID
import amqp from "amqplib";

const [url, queue, id] = process.argv.slice(2);
const connection = await amqp.connect(url);
const channel = await connection.createConfirmChannel();
channel.sendToQueue(queue, Buffer.from("rejected"), { messageId: id, persistent: true });
await channel.waitForConfirms();
channel.reject(await channel.get(queue), false);
await channel.close();
await connection.close();
