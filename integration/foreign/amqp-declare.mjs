// Declares a queue of somebody else: node amqp-declare.mjs URL QUEUE
import amqp from "amqplib";

const [url, queue] = process.argv.slice(2);
const connection = await amqp.connect(url);
const channel = await connection.createChannel();
await channel.assertQueue(queue, { durable: true, maxLength: 1000 });
await connection.close();
