"""A client in Python: consumes what holdfast publishes, and publishes beside it.

pika_client.py URL QUEUE COUNT: prints each message it consumes as JSON, then
publishes COUNT messages with typed headers, confirmed and mandatory.
"""

import json
import sys

import pika

url, queue, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
channel.basic_qos(prefetch_count=10)
seen = 0
for method, properties, body in channel.consume(queue + ".theirs", inactivity_timeout=30):
    if method is None:
        sys.exit("nothing came within 30 seconds")
    print(json.dumps({
        "id": properties.message_id, "mode": properties.delivery_mode, "body": body.decode(),
        "tenant": properties.headers.get("Tenant"),
    }), flush=True)
    channel.basic_ack(method.delivery_tag)
    seen += 1
    if seen == count:
        break
channel.cancel()
for i in range(count):
    channel.basic_publish("", queue, b"from pika %d" % i, pika.BasicProperties(
        message_id="pika-%d" % i, delivery_mode=2, content_type="text/plain",
        headers={"n": i, "deep": {"list": [1, "two", None, True]}, "big": 1 << 40},
    ), mandatory=True)
try:
    channel.basic_publish("", queue + ".missing", b"nowhere", mandatory=True)
    sys.exit("an unroutable message was not returned")
except pika.exceptions.UnroutableError:
    pass
connection.close()
