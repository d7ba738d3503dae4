// A shop in another language: adds a product, waits until it is applied, asks what looks like it, and reads the answer.
// node gateway_client.mjs ADDRESS SECRET; prints what it read as JSON.
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const [address, secret, picture] = process.argv.slice(2);
const headers = { authorization: `Bearer ${secret}` };

async function call(path, options = {}) {
  const response = await fetch(new URL(path, address), {
    ...options,
    headers: { ...headers, ...options.headers },
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return response;
}

async function post(path, document) {
  const body = JSON.stringify(document);
  return call(path, { method: "POST", body, headers: { "content-type": "application/json" } });
}

async function poll(path, goesOn) {
  for (;;) {
    const response = await call(path);
    const document = await response.json();
    if (!goesOn(response, document)) return document;
    await sleep(20);
  }
}

const form = new FormData();
form.set("products", JSON.stringify({ product_id: "from-node", category: "shoe" }));
form.set("image", new Blob([await readFile(picture)]), "picture.jpg");
const added = await call("/products", { method: "POST", body: form });
const job = await poll(added.headers.get("location"), (_, found) => found.state === "waiting");

const asked = await post("/lookups", { product_id: "from-node", limit: 3 });
const polled = await poll(asked.headers.get("location"), (response) => response.status === 202);

const listened = await post("/lookups", { product_id: "from-node", limit: 3 });
const events = [];
const stream = await call(`${listened.headers.get("location")}/events`);
for (const line of (await stream.text()).split("\n"))
  if (line.startsWith("event: ")) events.push(line.slice(7));

console.log(JSON.stringify({ job, polled, events }));
