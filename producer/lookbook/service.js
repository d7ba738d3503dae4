// The service behind the page: requests, problems, lookups that are polled.

const KEY = "lookalike-key";
const WAIT = 10;

/** What went wrong, in the gateway's words. */
export class Problem extends Error {
  constructor(status, { title, detail, reason } = {}) {
    super(title ?? "The service answered something unexpected");
    this.status = status;
    this.title = this.message;
    this.detail = detail ?? "";
    this.reason = reason ?? "";
  }
}

let locked = async () => false;
let scopes = new Set();
let open = true;

/** Say what to do when a key is needed: `ask` gives whether there is one now. */
export const whenLocked = (ask) => {
  locked = ask;
};

export const isOpen = () => open;
export const mayWrite = () => scopes.has("write");
export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const keep = (key) => sessionStorage.setItem(KEY, key);
export const forget = () => sessionStorage.removeItem(KEY);

/** Learn whether a key is needed, and what the one that there is may do. */
export async function access() {
  const found = await json("/access", { retry: false });
  open = found.open;
  scopes = new Set(found.scopes);
  return found;
}

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key === null ? more : { ...more, Authorization: `Bearer ${key}` };
}

/** A response that is no problem. Throws Problem, and AbortError when it was called off. */
export async function request(path, { retry = true, headers: more, ...how } = {}) {
  let response;
  try {
    response = await fetch(path, { ...how, headers: headers(more), credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, {
      title: "The service cannot be reached",
      detail: "Check the connection, or whether the service runs.",
    });
  }
  if (response.ok) return response;
  if (response.status === 401 && retry && (await locked())) {
    return request(path, { retry: false, headers: more, ...how });
  }
  const said = await response.json().catch(() => ({}));
  throw new Problem(response.status, said);
}

export async function json(path, how) {
  return (await request(path, how)).json();
}

/** Send a document. */
export function send(method, path, document, how = {}) {
  const body = JSON.stringify(document);
  return json(path, { ...how, method, body, headers: { "Content-Type": "application/json" } });
}

/** A path with a query that leaves out what is null or empty. */
export function query(path, parameters) {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "" && value !== false) said.set(name, value);
  }
  const text = said.toString();
  return text ? `${path}?${text}` : path;
}

/**
 * Ask a question, with the picture that it is about if there is one, and wait for the reply.
 *
 * Gives `{reply, missing}`: missing when the product asked about is not in the catalogue.
 */
export async function lookup(question, { picture = null, signal } = {}) {
  const how = { method: "POST", signal };
  if (picture === null) {
    how.body = JSON.stringify(question);
    how.headers = { "Content-Type": "application/json" };
  } else {
    how.body = new FormData();
    how.body.append("lookup", new Blob([JSON.stringify(question)], { type: "application/json" }));
    how.body.append("image", picture);
  }
  let response = await request("/lookups?wait=2", how);
  while (response.status === 202) {
    await response.arrayBuffer();
    await pause(response.headers.get("Retry-After"), signal);
    response = await request(`${response.headers.get("Location")}?wait=${WAIT}`, { signal });
  }
  return ended(await response.json());
}

function ended(document) {
  if (document.state === "failed") throw new Problem(document.problem.status, document.problem);
  const [reply = null] = document.replies ?? [];
  return { reply, missing: reply === null };
}

function pause(seconds, signal) {
  const milliseconds = Math.min(30, Number(seconds) || 1) * 1000;
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
