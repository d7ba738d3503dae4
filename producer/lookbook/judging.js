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
    for (const { match, verdict, mine } of judgements) if (mine) this.verdicts.set(match, verdict);
    for (const each of this.shown) each.refresh();
  }

  /** Two buttons for a match; `more` gives what else is noted with a verdict. */
  buttons(match, more) {
    const make_ = (verdict) => {
      const button = make(
        "button",
        {
          type: "button", class: `verdict ${verdict}`, "data-stop": true, tabindex: "-1",
          "aria-label": `${WORDS[verdict]}: ${match}`,
          title: `${WORDS[verdict]} (${verdict === "up" ? "+" : "−"})`,
          onclick: () => this.toggle(match, verdict, more()),
        },
        icon(verdict),
      );
      button.disabled = !mayWrite();
      if (button.disabled) button.title = "This key may look, and not judge";
      return button;
    };
    const both = { up: make_("up"), down: make_("down") };
    const refresh = () => {
      for (const [verdict, button] of Object.entries(both)) {
        button.setAttribute("aria-pressed", String(this.verdicts.get(match) === verdict));
      }
    };
    refresh();
    this.shown.add({ refresh });
    return make("span", { class: "verdicts" }, both.up, both.down);
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
    for (const each of this.shown) each.refresh();
  }
}
