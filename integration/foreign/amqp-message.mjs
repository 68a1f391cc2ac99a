// What the foreign RabbitMQ client sends: a header of every type that it can
// write, and what a handler is to see of them. A copy on its way through
// holdfast must have the same headers, types included.
import assert from "node:assert/strict";

const secret = Buffer.from([0xff, 0x00, 0x1b]);

export const headers = {
  Tenant: "blue",
  Tag: ["first", "second"],
  "h-text": "\u001b[31mgrüße\u202e",
  "h-bool": true,
  "h-null": null,
  "h-byte": -5,
  "h-short": 300,
  "h-int": 70000,
  "h-long": 5000000000,
  "h-unsigned-byte": { "!": "uint8", value: 200 },
  "h-unsigned-short": { "!": "uint16", value: 60000 },
  "h-unsigned-int": { "!": "uint32", value: 4000000000 },
  "h-double": 1.5,
  "h-float": { "!": "float", value: 0.25 },
  "h-decimal": { "!": "decimal", value: { places: 2, digits: 314 } },
  "h-timestamp": { "!": "timestamp", value: 1767225600 },
  "h-bytes": secret,
  "h-table": { a: 1, b: { c: [true, "x", 2.5] } },
  "h-array": [1, "two", { three: 3 }],
  "h-empty": [],
  "h-single": ["one"],
  "x-own": "mine",
};

// The headers as a client reads them: plain numbers have lost their size.
const read = Object.fromEntries(
  Object.entries(headers).map(([name, v]) => [name, /^h-(unsigned|float)/.test(name) ? v.value : v]),
);

export const properties = {
  contentType: "application/json",
  contentEncoding: "utf-8",
  correlationId: "c-1",
  type: "order.placed",
  appId: "foreign",
  timestamp: 1767225600,
  expiration: "3600000",
  persistent: true,
  mandatory: true,
};

// seen is what a handler gets in HOLDFAST_HEADERS.
export const seen = {
  Tenant: ["blue"],
  Tag: ["first", "second"],
  "h-text": ["\u001b[31mgrüße\u202e"],
  "h-bool": ["true"],
  "h-null": [""],
  "h-byte": ["-5"],
  "h-short": ["300"],
  "h-int": ["70000"],
  "h-long": ["5000000000"],
  "h-unsigned-byte": ["200"],
  "h-unsigned-short": ["60000"],
  "h-unsigned-int": ["4000000000"],
  "h-double": ["1.5"],
  "h-float": ["0.25"],
  "h-decimal": ["314e-2"],
  "h-timestamp": ["2026-01-01T00:00:00Z"],
  "h-bytes": ["\ufffd\u0000\u001b"],
  "h-table": ['{"a":1,"b":{"c":[true,"x",2.5]}}'],
  "h-array": ['[1,"two",{"three":3}]'],
  "h-empty": ["[]"],
  "h-single": ['["one"]'],
  "x-own": ["mine"],
  "Amqp-Content-Encoding": ["utf-8"],
  "Amqp-Correlation-Id": ["c-1"],
  "Amqp-Type": ["order.placed"],
  "Amqp-App-Id": ["foreign"],
  "Amqp-Expiration": ["3600000"],
};

// whole fails unless a message that a client took has all that was sent.
// Expirations of copies are kept aside, for they would remove the copy.
export function whole(m) {
  const got = Object.fromEntries(Object.keys(read).map((name) => [name, m.properties.headers[name]]));
  assert.deepEqual(got, read);
  for (const name of ["contentType", "contentEncoding", "correlationId", "type", "appId"]) {
    assert.equal(m.properties[name], properties[name], name);
  }
  assert.equal(JSON.parse(m.content.toString()).text, "grüße");
}
