// Thumbs up and down: what people say of a match.

import { icon, make, say } from "./elements.js";
import { json, mayWrite, query, send } from "./service.js";

const WORDS = { up: "Good match", down: "Bad match" };

/** The verdicts on the matches of one product, as they are and as they change. */
export class Judgements {
  constructor(product) {
    this.product = product;
    this.verdicts = new Map();
    this.shown = new Set();
  }

  /** Learn what was said before. Throws Problem. */
  async load(signal) {
    const path = query("/judgements", { product_id: this.product });
    const { judgements } = await json(path, { signal });
    for (const { match, verdict, mine } of judgements) {
      if (mine) this.verdicts.set(match, verdict);
    }
    for (const each of this.shown) each.refresh();
  }

  /** Two buttons for a match; `more` gives what else is noted with a verdict. */
  buttons(match, more) {
    const button = (verdict) => {
      const made = make(
        "button",
        {
          type: "button",
          class: `verdict ${verdict}`,
          "data-stop": true,
          tabindex: "-1",
          "aria-label": `${WORDS[verdict]}: ${match}`,
          title: `${WORDS[verdict]} (${verdict === "up" ? "+" : "−"})`,
          onclick: () => this.toggle(match, verdict, more()),
        },
        icon(verdict),
      );
      made.disabled = !mayWrite();
      if (made.disabled) made.title = "This key may look, and not judge";
      return made;
    };
    const both = { up: button("up"), down: button("down") };
    const refresh = () => {
      for (const [verdict, each] of Object.entries(both)) {
        each.setAttribute("aria-pressed", String(this.verdicts.get(match) === verdict));
      }
    };
    refresh();
    const element = make("span", { class: "verdicts" }, both.up, both.down);
    this.shown.add({ element, refresh });
    return element;
  }

  /** Say it, or take it back when it was said already. */
  async toggle(match, verdict, more = {}) {
    if (!mayWrite()) {
      say("This key may look, and not judge.", { shown: true });
      return;
    }
    const before = this.verdicts.get(match) ?? null;
    const now = before === verdict ? null : verdict;
    this.set(match, now);
    try {
      await send("PUT", "/judgements", { product_id: this.product, match, verdict: now, ...more });
      say(now === null ? `Taken back: ${match}` : `${WORDS[now]}: ${match}`);
    } catch (error) {
      this.set(match, before);
      say(`Not kept: ${error.title ?? error.message}. ${error.detail ?? ""}`, { shown: true });
    }
  }

  set(match, verdict) {
    if (verdict === null) this.verdicts.delete(match);
    else this.verdicts.set(match, verdict);
    for (const each of this.shown) {
      if (each.element.isConnected) each.refresh();
      else this.shown.delete(each);
    }
  }
}
