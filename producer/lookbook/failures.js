// What was given up, why, and what to do about it.

import { confirm } from "./dialogs.js";
import { make, say, trouble } from "./elements.js";
import { json, mayWrite, query, send } from "./service.js";
import { count, moment, reason, several } from "./words.js";

const PAGE = 50;

export class Failures {
  constructor(changed) {
    this.changed = changed;
    this.reason = null;
    this.total = 0;
    this.reasons = make("ul", { class: "chips", role: "list", "aria-label": "Reasons" });
    this.all = make("div", { class: "buttons" });
    this.list = make("ul", { class: "failures", role: "list", "aria-label": "Failures, newest first" });
    this.more = make("button", {
      type: "button",
      class: "button",
      hidden: true,
      text: "Show more",
      onclick: () => this.load(this.next),
    });
    this.heading = make("h3", { tabindex: "-1", text: "Failures" });
    this.root = make(
      "section",
      { "aria-label": "Failures" },
      this.heading,
      this.reasons,
      this.all,
      this.list,
      this.more,
    );
  }

  /** Show how many there are by reason. */
  count(reasons) {
    const entries = Object.entries(reasons).sort((a, b) => b[1] - a[1]);
    const same = JSON.stringify(entries);
    if (same === this.counted) return;
    this.counted = same;
    this.total = entries.reduce((sum, [, number]) => sum + number, 0);
    this.by = new Map(entries);
    if (!this.by.has(this.reason)) this.reason = null;
    this.heading.textContent = this.total ? several(this.total, "failure") : "Failures";
    this.showReasons();
    if (this.root.closest("dialog")?.open && !this.isRead) this.load();
  }

  /** Whether somebody is in the middle of the list, which must not move then. */
  get isRead() {
    return this.list.contains(document.activeElement) || this.list.childElementCount > PAGE;
  }

  showReasons() {
    const chip = (code, text, number) =>
      make(
        "li",
        {},
        make(
          "button",
          {
            type: "button",
            class: "chip",
            "aria-pressed": String(this.reason === code),
            onclick: () => this.pick(code),
          },
          make("span", { text }),
          make("span", { class: "chip-count", text: count(number) }),
        ),
      );
    const chips = [...(this.by ?? [])].map(([code, number]) => chip(code, code.replaceAll("_", " "), number));
    const held = this.reasons.contains(document.activeElement);
    this.reasons.replaceChildren(...(chips.length > 1 ? [chip(null, "all", this.total), ...chips] : []));
    if (held) (this.reasons.querySelector('[aria-pressed="true"]') ?? this.heading).focus();
    this.showAll();
  }

  showAll() {
    const number = this.reason === null ? this.total : (this.by?.get(this.reason) ?? 0);
    const which = this.reason === null ? { all: true } : { reason: this.reason };
    this.all.replaceChildren(
      ...(number > 1
        ? [
            this.button("requeue", which, `Requeue all ${count(number)}`, number),
            this.button("discard", which, `Discard all ${count(number)}`, number),
          ]
        : []),
    );
  }

  pick(code) {
    this.reason = code;
    this.showReasons();
    this.load();
  }

  /** Read the newest, or those after. */
  async load(after = null) {
    this.loading?.abort();
    const { signal } = (this.loading = new AbortController());
    this.list.querySelector(".trouble")?.remove();
    try {
      const asked = { reason: this.reason, limit: PAGE, after };
      const { failures, next } = await json(query("/failures", asked), { signal });
      const rows = failures.map((each) => this.row(each));
      if (after === null) this.list.replaceChildren(...rows);
      else this.list.append(...rows);
      this.next = next;
      this.more.hidden = next === null;
      if (!this.list.childElementCount) {
        this.list.append(
          make("li", {
            class: "empty",
            text: "Nothing was given up. What fails for good comes to stand here, with its reason.",
          }),
        );
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      this.list.append(
        make(
          "li",
          {},
          trouble(error, () => this.load(after)),
        ),
      );
    }
  }

  row({ id, product_id, name, reason: code, detail, attempts, at }) {
    const which = { ids: [id] };
    const product = product_id ?? "A message";
    const what = name && name !== "main" ? `${product} (${name})` : product;
    const tries = attempts > 1 ? `${count(attempts)} tries, ` : "";
    return make(
      "li",
      { class: "failure" },
      make(
        "div",
        { class: "failure-what" },
        make("b", { text: what }),
        make("p", { text: reason(code) }),
        make("p", { class: "detail", text: detail }),
        make("p", { class: "caption", text: `${tries}${moment(at)} · ${code}` }),
      ),
      make(
        "div",
        { class: "buttons" },
        this.button("requeue", which, "Requeue", 1, what),
        this.button("discard", which, "Discard", 1, what),
      ),
    );
  }

  button(does, which, text, number, what = null) {
    const button = make("button", {
      type: "button",
      class: "button",
      text,
      "aria-label": what === null ? null : `${text} ${what}`,
      onclick: () => this.act(does, which, number, button),
    });
    button.disabled = !mayWrite();
    if (button.disabled) button.title = "This key may look, and not change anything";
    return button;
  }

  async act(does, which, number, button) {
    if (number > 1 && !(await confirm(...asked(does, number)))) return;
    button.disabled = true;
    try {
      const done = await send("POST", `/failures/${does}`, which);
      say(told(does, done), { shown: true });
      this.heading.focus();
      this.changed();
      await this.load();
    } catch (error) {
      button.disabled = false;
      say(`${error.title}. ${error.detail}`, { shown: true });
    }
  }
}

function asked(does, number) {
  const what = several(number, "failure");
  return does === "requeue"
    ? [
        `Requeue ${what}?`,
        "Each is tried again from the beginning; what fails again comes back here.",
        "Requeue all",
      ]
    : [
        `Discard ${what}?`,
        "They are forgotten, and their products stay as they are. This cannot be taken back.",
        "Discard all",
      ];
}

function told(does, { requeued = 0, discarded = 0, left = 0 }) {
  const kept = left
    ? ` ${count(left)} ${left === 1 ? "is" : "are"} kept: what they need is gone, or it takes too long.`
    : "";
  if (does === "requeue") return `${several(requeued, "failure")} requeued, and tried again now.${kept}`;
  return `${several(discarded, "failure")} discarded.${kept}`;
}
