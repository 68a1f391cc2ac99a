// A handler behind a URL. It checks the signature by the Standard Webhooks scheme
// and prints the port it listens on.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import { handle } from "./handle.mjs";

const key = Buffer.from(process.env.SECRET.replace(/^whsec_/, ""), "base64");

function signed(req, body) {
  const id = req.headers["webhook-id"];
  const time = req.headers["webhook-timestamp"];
  const want = createHmac("sha256", key).update(`${id}.${time}.`).update(body).digest();
  return (req.headers["webhook-signature"] ?? "").split(" ").some((s) => {
    const [version, value] = s.split(",");
    const got = Buffer.from(value ?? "", "base64");
    return version === "v1" && got.length === want.length && timingSafeEqual(got, want);
  });
}

const server = createServer((req, res) => {
  const chunks = [];
  req.on("data", (c) => chunks.push(c));
  req.on("end", () => {
    const body = Buffer.concat(chunks);
    if (!signed(req, body)) {
      res.writeHead(401).end("bad signature");
      return;
    }
    const outcome = handle("http", req.headers["webhook-id"], Number(req.headers["holdfast-attempt"]), body.toString("utf8"));
    if (outcome === "retry") {
      res.writeHead(503, { "Content-Type": "application/json" }).end(JSON.stringify({ status: "retry", after: "50ms", reason: "busy" }));
      return;
    }
    res.writeHead({ ok: 204, permanent: 422 }[outcome]).end(outcome === "ok" ? undefined : "order 4711 is poison");
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
