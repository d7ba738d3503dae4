// What looks like a product, or like a picture that somebody brought.

import { go, trail, write } from "./address.js";
import { productOf } from "./catalogue.js";
import { Comparison, overlap } from "./comparing.js";
import { Controls } from "./controls.js";
import { byId, icon, make, say, settled, trouble, unseen } from "./elements.js";
import { Judgements } from "./judging.js";
import { answeredBy, legend, nothing, pictureGone, productGone } from "./notices.js";
import { preview, thumbnail } from "./pictures.js";
import { rove, settle } from "./roving.js";
import { lookup } from "./service.js";
import { arrange, recall, skeletons, tile } from "./tiles.js";
import { label, percent, several, value } from "./words.js";

const CALM = 140;
const LONG = 40;

export class Neighbours {
  constructor(root, brought) {
    this.root = root;
    this.brought = brought;
    this.controls = new Controls((picked) => this.pick(picked));
    this.trail = make("nav", { class: "trail", "aria-label": "Where you came from" });
    this.subject = make("div", { class: "subject" });
    this.caption = make("p", { class: "caption" });
    this.list = make("ol", {
      class: "grid matches",
      role: "list",
      "aria-label": "What looks like it, nearest first",
    });
    this.aside = make("div", { class: "after" });
    this.comparison = new Comparison({
      changed: (sides) => this.compare(sides),
      tile: (match, reply) => this.tile(match, reply),
    });
    this.versus = make(
      "button",
      {
        type: "button",
        class: "button",
        "aria-pressed": "false",
        onclick: () => this.toggleComparison(),
      },
      icon("columns"),
      make("span", { text: "Compare" }),
    );
    this.adjust = make(
      "button",
      {
        type: "button",
        class: "button adjust",
        "aria-expanded": "false",
        "aria-controls": "controls",
        onclick: () => this.toggleControls(),
      },
      icon("sliders"),
      make("span", { text: "Adjust" }),
    );
    this.controls.root.id = "controls";
    root.append(
      this.trail,
      make(
        "div",
        { class: "spread" },
        this.subject,
        make(
          "div",
          { class: "results" },
          make(
            "div",
            { class: "results-head" },
            make("div", {}, make("h2", { text: "Looks like this" }), this.caption),
            make("div", { class: "actions" }, this.adjust, this.versus),
          ),
          this.controls.root,
          this.comparison.root,
          this.list,
          this.aside,
        ),
      ),
    );
    const judge = (verdict) => (item) => this.judgements?.toggle(item.dataset.id, verdict, this.noted(item));
    const keys = { "+": judge("up"), "=": judge("up"), "-": judge("down"), _: judge("down") };
    rove(this.list, keys);
    for (const side of this.comparison.lists) rove(side, keys);
    this.askSoon = settled(CALM, () => {
      if (!this.place) return;
      go(this.place, { replace: true });
      this.ask();
    });
  }

  /** Show what an address says. */
  show(place) {
    const subject = place.view === "product" ? place.product : place.picture;
    const same = this.place?.view === place.view && this.subjectIs === subject;
    this.place = place;
    this.controls.show(place.picked);
    this.showTrail();
    if (!same) this.begin(subject);
    this.showComparison();
    this.ask();
  }

  /** Leave: nothing that is on its way is wanted any more. */
  leave() {
    this.asking?.abort();
    this.learning?.abort();
    this.place = null;
    this.subjectIs = null;
  }

  begin(subject) {
    this.subjectIs = subject;
    this.judgements = null;
    this.learning?.abort();
    this.learning = new AbortController();
    this.list.replaceChildren(...skeletons(this.place.picked.limit));
    this.comparison.clear(this.place.picked.limit);
    this.caption.textContent = "";
    this.versus.hidden = this.place.view !== "product";
    if (this.place.view === "product") this.beginProduct(subject);
    else this.beginPicture(subject);
  }

  beginProduct(id) {
    const judgements = (this.judgements = new Judgements(id));
    const { signal } = this.learning;
    judgements.load(signal).catch((error) => {
      if (error.name !== "AbortError") say(`Verdicts could not be read: ${error.title}`, { shown: true });
    });
    this.showProduct(recall(id) ?? { product_id: id, name: null, category: null, attributes: {} });
    if (recall(id)) return;
    // What is below has its place only once the attributes are there: until then it would jump.
    this.root.classList.add("learning");
    productOf(id, signal)
      .then((found) => {
        if (found) this.showProduct(found);
      })
      .catch(() => {
        /* The lookup says what is wrong. */
      })
      .finally(() => this.root.classList.remove("learning"));
  }

  beginPicture(key) {
    const picture = this.brought.get(key);
    const hero = make("div", { class: "well hero" });
    if (picture) hero.append(preview(picture.url, "The picture that you brought"));
    this.subject.replaceChildren(
      hero,
      make(
        "div",
        { class: "about" },
        make("h1", { id: "neighbours-title", tabindex: "-1", text: "Your picture" }),
        make("p", { class: "kind", text: picture?.file.name ?? "" }),
      ),
    );
  }

  showProduct({ product_id, name, category, attributes }) {
    const held = document.activeElement?.id === "neighbours-title";
    const hero = make("div", { class: "well hero" });
    // Until the name of its picture is known there is nothing to ask for.
    if (name !== null)
      hero.append(thumbnail(product_id, name, { alt: `Picture of ${product_id}`, eager: true }));
    const facts = Object.entries(attributes).map(([key, of]) => this.fact(key, of));
    this.subject.replaceChildren(
      hero,
      make(
        "div",
        { class: "about" },
        make("h1", {
          id: "neighbours-title",
          tabindex: "-1",
          class: product_id.length > LONG ? "long" : null,
          text: product_id,
        }),
        category === null
          ? null
          : make("p", { class: "kind" }, this.narrowing("category", category, category)),
        facts.length ? make("dl", { class: "facts" }, ...facts) : null,
      ),
    );
    if (held) byId("neighbours-title").focus({ preventScroll: true });
  }

  fact(key, of) {
    const words = value(of);
    const said =
      Array.isArray(of) || of === null ? make("span", { text: words }) : this.narrowing(key, of, words);
    return make("div", {}, make("dt", { text: label(key) }), make("dd", {}, said));
  }

  /** A value that shows only matches like it: of a number, those that have no more of it. */
  narrowing(key, of, words) {
    const condition = typeof of === "number" ? { le: of } : of;
    const title =
      typeof of === "number" ? `Only ${label(key)} up to ${words}` : `Only ${label(key)} ${words}`;
    return make("button", {
      type: "button",
      class: "fact",
      title,
      text: words,
      onclick: () => this.controls.narrow(key, condition),
    });
  }

  showTrail() {
    const steps = trail();
    const links = steps.map((step, at) => {
      const place = step.product
        ? { view: "product", product: step.product }
        : { view: "picture", picture: step.picture };
      const picture = step.product ? null : this.brought.get(step.picture);
      if (!step.product && !picture) return null;
      const image = picture ? preview(picture.url, "") : thumbnail(step.product, step.name, { eager: true });
      const words = step.product ?? "Your picture";
      return make(
        "li",
        {},
        make(
          "a",
          {
            href: write({ ...place, picked: this.place.picked }),
            "data-go": true,
            "data-trail": String(at),
            title: words,
          },
          make("span", { class: "well" }, image),
          make("span", { class: "step", text: words }),
        ),
      );
    });
    const home = make(
      "li",
      {},
      make(
        "a",
        { class: "back", href: "./", "data-go": true, "data-home": true },
        icon("back"),
        make("span", { text: "Catalogue" }),
      ),
    );
    this.trail.replaceChildren(make("ol", { role: "list" }, home, ...links.filter(Boolean)));
    this.trail.firstChild.scrollLeft = this.trail.firstChild.scrollWidth;
  }

  // -- what is picked ---------------------------------------------------------------------------

  pick(picked) {
    this.place = { ...this.place, picked };
    this.root.setAttribute("aria-busy", "true");
    this.askSoon();
  }

  toggleControls() {
    const open = this.adjust.getAttribute("aria-expanded") !== "true";
    this.adjust.setAttribute("aria-expanded", String(open));
    this.controls.root.classList.toggle("open", open);
  }

  async toggleComparison() {
    if (this.place.right) return this.compare({ left: null, right: null });
    try {
      const right = await this.comparison.other();
      return this.compare({ left: "live", right });
    } catch (error) {
      return say(`${error.title}. ${error.detail}`, { shown: true });
    }
  }

  compare(sides) {
    this.place = { ...this.place, ...sides };
    go(this.place, { replace: true });
    this.showComparison();
    this.ask();
  }

  showComparison() {
    const on = Boolean(this.place.right) && this.place.view === "product";
    this.versus.setAttribute("aria-pressed", String(on));
    this.root.classList.toggle("comparing", on);
    this.comparison.root.hidden = !on;
    this.list.hidden = on;
    if (on) this.comparison.choose(this.place.left ?? "live", this.place.right);
  }

  // -- asking -----------------------------------------------------------------------------------

  question(generation) {
    const { limit, diversity, alike, once, where } = this.place.picked;
    const asked = { limit, where };
    if (diversity) asked.diversity = diversity;
    if (alike) asked.min_similarity = alike;
    if (once) asked.collapse = 0;
    if (this.place.view === "product") asked.product_id = this.place.product;
    if (generation && generation !== "live") asked.generation = Number(generation);
    return asked;
  }

  /** Ask anew; what was asked before is called off, and its answer never shown. */
  async ask() {
    if (!this.place) return;
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    this.root.setAttribute("aria-busy", "true");
    try {
      if (this.place.right && this.place.view === "product") await this.askBoth(asking);
      else await this.askOne(asking);
    } catch (error) {
      if (asking.signal.aborted) return;
      // A picture that cannot be read cannot be read a second time.
      const again = error.status === 422 ? null : () => this.ask();
      this.clear(trouble(error, again));
    }
    if (this.asking === asking) this.root.removeAttribute("aria-busy");
  }

  async askOne({ signal }) {
    const picture = this.place.view === "picture" ? this.brought.get(this.place.picture) : null;
    if (this.place.view === "picture" && !picture) return this.clear(pictureGone());
    const { reply, missing } = await lookup(this.question(), { picture: picture?.file ?? null, signal });
    if (signal.aborted) return undefined;
    if (missing) return this.clear(productGone(this.place.product));
    this.aside.replaceChildren();
    arrange(
      this.list,
      reply.matches,
      (match) => this.tile(match, reply),
      (item, match) => this.update(item, match, reply),
    );
    settle(this.list);
    this.caption.textContent = answeredBy(reply);
    if (reply.matches.length) {
      this.aside.append(legend());
      say(`${several(reply.matches.length, "product")}, the nearest is ${reply.matches[0].product_id}`);
    } else {
      this.clear(nothing(this.place.picked));
      this.caption.textContent = answeredBy(reply);
    }
    return undefined;
  }

  async askBoth({ signal }) {
    const sides = [this.place.left ?? "live", this.place.right];
    const found = await Promise.all(sides.map((side) => this.askSide(side, signal)));
    if (signal.aborted) return;
    if (found.every(({ missing }) => missing)) {
      this.clear(productGone(this.place.product));
      return;
    }
    this.comparison.show(found, () => this.ask());
    for (const side of this.comparison.lists) settle(side);
    this.aside.replaceChildren(
      legend("= is in both answers, with its place in the other one; + is only in this one. "),
    );
    this.caption.textContent = overlap(found, this.place.picked.limit);
    say(this.caption.textContent);
  }

  /** One side's answer, or why there is none: the other may have one. */
  askSide(side, signal) {
    return lookup(this.question(side), { signal }).catch((error) => ({ reply: null, missing: false, error }));
  }

  clear(instead) {
    this.list.replaceChildren();
    this.comparison.clear(0);
    this.caption.textContent = "";
    this.aside.replaceChildren(instead);
    if (instead.textContent && !instead.matches(".trouble")) say(instead.textContent);
  }

  // -- matches ----------------------------------------------------------------------------------

  href(match) {
    return write({ view: "product", product: match.product_id, picked: this.place.picked });
  }

  tile(match, reply) {
    const bar = make("span", { class: "bar", "aria-hidden": "true" }, make("i"));
    const more = [
      bar,
      make("span", { class: "share" }, make("b"), unseen(" alike")),
      make("span", { class: "distance" }),
    ];
    const noted = () => this.noted(item);
    const below = this.judgements ? [this.judgements.buttons(match.product_id, noted)] : [];
    const item = tile(match, this.href(match), { more, below });
    this.update(item, match, reply);
    return item;
  }

  update(item, match, reply) {
    item.match = match;
    item.generation = reply.generation;
    const share = Math.max(0, match.similarity);
    item.querySelector(".bar i").style.width = `${share * 100}%`;
    item.querySelector(".share b").textContent = percent(share);
    item.querySelector(".distance").textContent = `d ${match.distance.toFixed(2)}`;
    item.querySelector(".look").href = this.href(match);
  }

  /** What is kept with a verdict. */
  noted({ match, generation }) {
    const noted = { distance: match.distance };
    if (generation !== null) noted.generation = generation;
    return noted;
  }

  /** The step of the trail that this place is. */
  step() {
    if (!this.place) return null;
    if (this.place.view === "picture") return { picture: this.place.picture };
    return { product: this.place.product, name: recall(this.place.product)?.name ?? "main" };
  }
}
