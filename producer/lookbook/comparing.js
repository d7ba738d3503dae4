// Two answers to the same question, side by side.

import { icon, make, trouble, unseen } from "./elements.js";
import { json } from "./service.js";
import { arrange, skeletons } from "./tiles.js";
import { age, percent, several } from "./words.js";

const LIVE = "live";
const ABSENT = {
  not_in_generation: "The product came after this generation.",
  unknown_generation: "This generation is not kept any more: choose another.",
};

export class Comparison {
  constructor({ changed, tile }) {
    this.changed = changed;
    this.tile = tile;
    this.generations = null;
    this.selects = ["left", "right"].map((side) =>
      make("select", { "aria-label": `Answer on the ${side}`, onchange: () => this.moved() }),
    );
    this.lists = ["left", "right"].map((side) =>
      make("ol", {
        class: "grid matches",
        role: "list",
        "aria-label": `Answer on the ${side}, nearest first`,
      }),
    );
    this.notes = this.lists.map(() => make("p", { class: "caption" }));
    this.root = make(
      "div",
      { class: "versus", hidden: true },
      ...this.lists.map((list, at) =>
        make("section", { "aria-label": at ? "Right" : "Left" }, this.selects[at], this.notes[at], list),
      ),
    );
    for (const kind of ["pointerover", "focusin"]) {
      this.root.addEventListener(kind, ({ target }) => this.echo(target.closest(".tile")));
    }
    this.root.addEventListener("pointerleave", () => this.echo(null));
  }

  /** The generation that is of most use beside the live answer. Throws Problem. */
  async other() {
    await this.load();
    const other = this.generations.find(({ current }) => !current) ?? this.generations[0];
    if (!other)
      throw Object.assign(new Error(), {
        title: "There is no index yet",
        detail: "One is built when there are products.",
      });
    return String(other.number);
  }

  async load() {
    this.generations = (await json("/generations")).generations;
  }

  /** Show which two are compared. */
  async choose(left, right) {
    this.chosen = [left, right];
    this.offer();
    if (this.generations) return;
    await this.load().catch(() => {
      this.generations = null;
    });
    this.offer();
  }

  offer() {
    this.selects.forEach((select, at) => {
      const known = this.generations ?? [];
      const options = [
        make("option", { value: LIVE, text: "Live, with what is newer" }),
      ];
      for (const each of known)
        options.push(make("option", { value: String(each.number), text: words(each) }));
      if (this.chosen[at] !== LIVE && !known.some(({ number }) => String(number) === this.chosen[at])) {
        options.push(make("option", { value: this.chosen[at], text: `Generation ${this.chosen[at]}` }));
      }
      select.replaceChildren(...options);
      select.value = this.chosen[at];
    });
  }

  moved() {
    const [left, right] = this.selects.map((select) => select.value);
    this.changed({ left, right });
  }

  clear(number) {
    for (const list of this.lists) list.replaceChildren(...skeletons(number));
    for (const note of this.notes) note.textContent = "";
  }

  /** Show what was found on either side; where there is no reply, why. */
  show(found, again) {
    const ranks = found.map(
      ({ reply }) => reply && new Map(reply.matches.map((each, at) => [each.product_id, at + 1])),
    );
    found.forEach(({ reply, error }, at) => {
      if (reply) this.fill(at, reply, ranks[1 - at]);
      else this.lists[at].replaceChildren(make("li", { class: "whole" }, unanswered(error, again)));
      this.notes[at].textContent = reply ? answeredBy(reply) : "";
    });
  }

  fill(at, reply, there) {
    const place = (item, { product_id }) => mark(item, there, there?.get(product_id), at);
    const create = (match) => {
      const item = this.tile(match, reply);
      item.append(make("span", { class: "mark" }));
      place(item, match);
      return item;
    };
    arrange(this.lists[at], reply.matches, create, place);
  }

  echo(tile) {
    for (const each of this.root.querySelectorAll(".echo")) each.classList.remove("echo");
    if (!tile) return;
    for (const each of this.root.querySelectorAll(".tile")) {
      if (each !== tile && each.dataset.id && each.dataset.id === tile.dataset.id) each.classList.add("echo");
    }
  }
}

function answeredBy({ matches, generation, model_version }) {
  const model = (model_version ?? "none").slice(0, 8);
  return `${several(matches.length, "match", "matches")} · generation ${generation ?? "none"} · model ${model}`;
}

function unanswered(error, again) {
  if (error === undefined)
    return make("p", { class: "empty", text: "This generation does not have the product." });
  if (error.reason in ABSENT) return make("p", { class: "empty", text: ABSENT[error.reason] });
  return trouble(error, again);
}

/** Say of a match whether the other side has it, where there is another side. */
function mark(item, there, rank, at) {
  item.classList.toggle("alone", Boolean(there) && rank === undefined);
  const label = item.querySelector(".mark");
  label.hidden = !there;
  if (rank === undefined) label.replaceChildren(icon("only"), "Only here");
  else label.replaceChildren(icon("both"), unseen("In both, "), `${nth(rank)} ${at ? "left" : "right"}`);
}

function nth(rank) {
  const kinds = { one: "st", two: "nd", few: "rd", other: "th" };
  return `${rank}${kinds[new Intl.PluralRules("en", { type: "ordinal" }).select(rank)]}`;
}

function words({ number, model_name, built_at, current }) {
  return `Generation ${number}${current ? ", current" : ""} · ${model_name} · ${age(built_at)} old`;
}

/** How much two answers have in common, in words. */
export function overlap(found, limit) {
  if (found.some(({ reply }) => !reply)) return "Only one of the two has an answer.";
  const [left, right] = found.map(({ reply }) => new Set(reply.matches.map((each) => each.product_id)));
  const k = Math.min(limit, Math.max(left.size, right.size));
  if (!k) return "Neither found anything.";
  const both = [...left].filter((id) => right.has(id)).length;
  return `${both} of ${k} are in both answers: overlap@${k} is ${percent(both / k)}.`;
}
