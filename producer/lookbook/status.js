// How the service is: a line at the foot of the page, and a drawer with all of it.

import { Failures } from "./failures.js";
import { byId, icon, make } from "./elements.js";
import { json } from "./service.js";
import { age, count, duration, several } from "./words.js";

const EVERY = 5000;
/** What a whole service has at least one of. */
const ROLES = ["embed", "query", "search", "index", "beat"];

export class Status {
  constructor() {
    this.strip = byId("strip");
    this.drawer = byId("drawer");
    this.details = make("div", { class: "details" });
    this.machinery = make("div", { class: "details" });
    this.failures = new Failures(() => this.look());
    this.drawer.append(
      make(
        "div",
        { class: "drawer-head" },
        make("h2", { id: "drawer-title", text: "How the service is" }),
        make(
          "button",
          { type: "button", class: "quiet round", "aria-label": "Close", onclick: () => this.drawer.close() },
          icon("close"),
        ),
      ),
      make("p", { class: "told", role: "status" }),
      this.details,
      this.failures.root,
      this.machinery,
    );
    this.drawer.addEventListener("click", ({ clientX, target }) => {
      if (target === this.drawer && clientX < this.drawer.getBoundingClientRect().left) this.drawer.close();
    });
    this.strip.addEventListener("click", () => this.open());
    document.addEventListener("visibilitychange", () => this.look());
  }

  open() {
    if (this.drawer.open) return;
    this.drawer.showModal();
    this.failures.load();
    this.look();
  }

  /** Look now, and every few seconds from now on while somebody sees it. */
  async look() {
    clearTimeout(this.timer);
    if (document.hidden) return;
    this.looking?.abort();
    const looking = (this.looking = new AbortController());
    try {
      this.show(await json("/status", { signal: looking.signal, retry: false }));
    } catch (error) {
      if (error.name === "AbortError") return;
      this.showTrouble(error);
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), EVERY);
  }

  show(status) {
    const { mood, words } = feeling(status);
    this.strip.dataset.mood = mood;
    const parts = [make("span", { class: "mood", text: words }), ...facts(status)];
    this.strip.replaceChildren(make("span", { class: "strip-line" }, ...parts));
    if (this.drawer.open) this.showDetails(status);
    this.failures.count(status.service?.dead_letters ?? {});
  }

  showTrouble(error) {
    this.strip.dataset.mood = "bad";
    const words = [make("span", { class: "mood", text: error.title }), make("span", { text: error.detail })];
    this.strip.replaceChildren(make("span", { class: "strip-line" }, ...words));
    this.details.replaceChildren(make("p", { text: `${error.title}. ${error.detail}` }));
  }

  showDetails({ service, queues, backlog, problem }) {
    const parts = [];
    if (problem) parts.push(make("p", { class: "wrong", text: problem }));
    if (service) parts.push(index(service));
    if (service?.rollout) parts.push(rollout(service.rollout));
    this.details.replaceChildren(...parts);
    this.machinery.replaceChildren(queueTable(queues, backlog), ...(service ? [workers(service)] : []));
  }
}

const known = (number) => number !== null && number !== undefined;

function failed({ service }) {
  return Object.values(service?.dead_letters ?? {}).reduce((sum, each) => sum + each, 0);
}

function feeling(status) {
  const { service, problem } = status;
  if (problem || !service) return { mood: "bad", words: "The workers do not answer" };
  if (service.workers.some(({ stuck }) => stuck)) return { mood: "bad", words: "A worker is stuck" };
  const absent = ROLES.filter((role) => !service.workers.some((each) => each.role === role));
  if (absent.length) return { mood: "bad", words: `No worker of: ${absent.join(", ")}` };
  if (service.rebuild_failure) return { mood: "bad", words: "The last rebuild failed" };
  if (failed(status)) return { mood: "odd", words: several(failed(status), "failure") };
  return { mood: "good", words: "All is well" };
}

function facts({ service, queues, backlog }) {
  // The question how the service is, is itself a message that some worker of the control queue is at.
  const held = ({ name, unacked }) => (name === "control" ? 0 : (unacked ?? 0));
  const waiting = queues.reduce((sum, each) => sum + each.waiting + held(each), 0);
  const texts = [];
  if (service) {
    const { generation, pending } = service;
    texts.push(
      generation ? `generation ${generation.number}, ${age(generation.built_at)} old` : "no index yet",
    );
    texts.push(`${several(pending, "pending change")}`);
  }
  texts.push(`${count(Math.max(waiting, backlog ?? 0))} in queues`);
  if (service) {
    texts.push(several(service.workers.length, "worker"));
    const fresh = freshness(service);
    if (fresh) texts.push(`searchable in ${duration(fresh.p50)}`);
  }
  return texts.map((text) => make("span", { text }));
}

function freshness(service) {
  const found = service.freshness;
  return found && typeof found.p50 === "number" ? found : null;
}

function figures(pairs) {
  return make(
    "dl",
    { class: "figures" },
    ...pairs
      .filter(([, said]) => said !== null)
      .map(([name, said]) => make("div", {}, make("dt", { text: name }), make("dd", { text: said }))),
  );
}

function index({
  products,
  images,
  revision,
  pending,
  model_name,
  model_version,
  generation,
  rebuild_failure,
  ...service
}) {
  const fresh = freshness(service);
  const pairs = [
    ["Products", count(products)],
    ["Pictures", count(images)],
    ["Generation", generation ? `${generation.number}${generation.pinned ? ", pinned" : ""}` : "none yet"],
    ["Its age", generation ? age(generation.built_at) : null],
    [
      "Its recall@10",
      generation && typeof generation.recall === "number" ? `${(generation.recall * 100).toFixed(1)}%` : null,
    ],
    ["Changes since", count(pending)],
    ["Revision", count(revision)],
    ["Model", model_name ? `${model_name} (${(model_version ?? "").slice(0, 8)})` : null],
    ["Searchable within", fresh ? `${duration(fresh.p50)} mostly, ${duration(fresh.p95)} at p95` : null],
  ];
  return make(
    "section",
    { "aria-label": "Index" },
    rebuild_failure
      ? make("p", { class: "wrong", text: `The last rebuild failed: ${rebuild_failure}` })
      : null,
    figures(pairs),
  );
}

function queueTable(queues, backlog) {
  const unacked = queues.some((each) => known(each.unacked));
  const oldest = queues.some((each) => known(each.oldest));
  const heads = ["Queue", "Waiting", ...(unacked ? ["At work"] : []), ...(oldest ? ["Oldest"] : [])];
  const rows = queues.map((each) =>
    make(
      "tr",
      {},
      make("th", { scope: "row", text: each.name }),
      make("td", { text: count(each.waiting) }),
      unacked ? make("td", { text: known(each.unacked) ? count(each.unacked) : "–" }) : null,
      oldest ? make("td", { text: known(each.oldest) ? duration(each.oldest) : "–" }) : null,
    ),
  );
  return make(
    "section",
    { "aria-label": "Queues" },
    make("h3", { text: "Queues" }),
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col", text })))),
      make("tbody", {}, ...rows),
    ),
    !known(backlog)
      ? null
      : make("p", { class: "caption", text: `${several(backlog, "job")} accepted and not yet applied.` }),
  );
}

function doing({ busy, longest, stuck, started_at }) {
  if (stuck) return `stuck for ${duration(longest ?? 0)}`;
  if (busy) return `busy for ${duration(longest ?? 0)}`;
  return `up ${duration(Date.now() / 1000 - started_at)}`;
}

function rollout({ model_name, images, embedded, waits_for }) {
  const bar = make("progress", {
    max: String(Math.max(1, images)),
    value: embedded,
    "aria-label": "Pictures embedded anew",
  });
  return make(
    "section",
    { "aria-label": "Rollout" },
    make("h3", { text: `${model_name} is being rolled out` }),
    bar,
    make("p", {
      class: "caption",
      text: `${count(embedded)} of ${several(images, "picture")}${waits_for ? `; waits for ${waits_for}` : ""}`,
    }),
  );
}

function workers({ workers: all }) {
  const rows = all.map((each) =>
    make(
      "li",
      {},
      make("b", { text: each.role }),
      make("span", { text: `${each.host}, ${each.pid}` }),
      make("span", { text: doing(each) }),
    ),
  );
  return make(
    "section",
    { "aria-label": "Workers" },
    make("h3", { text: "Workers" }),
    rows.length
      ? make("ul", { class: "workers", role: "list" }, ...rows)
      : make("p", { text: "None is alive." }),
  );
}
