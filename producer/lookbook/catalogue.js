// The catalogue: all pictures, by category and by the beginning of an id, a sheet at a time.

import { go, write } from "./address.js";
import { byId, make, say, settled, trouble } from "./elements.js";
import { rove, settle } from "./roving.js";
import { json, query } from "./service.js";
import { remember, skeletons, tile } from "./tiles.js";
import { count, several } from "./words.js";

const SHEET = 60;
const CHIPS = 12;
const CHIPS_FOUND = 60;

export class Catalogue {
  constructor(root) {
    this.root = root;
    this.shown = null;
    this.chips = make("ul", { class: "chips", role: "list" });
    this.find = make("input", {
      type: "search",
      class: "chip-find",
      placeholder: "Find a category",
      hidden: true,
      "aria-label": "Find a category",
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => this.showChips(),
    });
    this.total = make("p", { class: "total" });
    this.earlier = make("p", { class: "earlier", hidden: true });
    this.sheets = make("div", { class: "sheets" });
    this.more = make("button", {
      type: "button",
      class: "more",
      text: "Show more",
      onclick: () => this.loadAndGo(),
    });
    root.append(
      make(
        "div",
        { class: "title" },
        make("h1", { id: "catalogue-title", tabindex: "-1", text: "Catalogue" }),
        this.total,
      ),
      make("nav", { class: "categories", "aria-label": "Categories" }, this.find, this.chips),
      this.earlier,
      this.sheets,
      make("div", { class: "ending" }, this.more),
    );
    rove(this.sheets);
    this.nearing = new IntersectionObserver((seen) => this.unload(seen), { rootMargin: "2400px" });
    this.ending = new IntersectionObserver(
      ([seen]) => {
        if (seen.isIntersecting && !this.more.hidden) this.load();
      },
      { rootMargin: "900px" },
    );
    this.ending.observe(this.more);
    this.noting = settled(200, () => this.note());
    addEventListener("scroll", this.noting, { passive: true });
  }

  /** Show what an address says; what is there already stays. */
  show(place) {
    this.place = place;
    const what = write({ ...place, from: null });
    if (what === this.shown && this.sheets.childElementCount) return;
    this.shown = what;
    byId("prefix").value = place.prefix;
    this.loading?.abort();
    this.loading = null;
    this.cursor = place.from;
    this.number = 0;
    this.sheets.replaceChildren();
    if (!this.root.hidden) scrollTo(0, 0);
    this.earlier.hidden = !place.from;
    this.earlier.replaceChildren(
      make("a", { href: write({ ...place, from: null }), "data-go": true, text: "From the beginning" }),
    );
    this.ready = this.load();
    this.loadCategories();
  }

  /** The next sheet, with the focus on its first product: the button may be gone. */
  async loadAndGo() {
    await this.load();
    this.sheets.lastElementChild?.querySelector(".look")?.focus();
  }

  /** The next sheet. */
  async load() {
    if (this.loading) return;
    const loading = (this.loading = new AbortController());
    const waiting = make("ul", { class: "grid", role: "list" }, ...skeletons(this.number ? 12 : 24));
    this.sheets.querySelector(".trouble")?.remove();
    this.sheets.append(waiting);
    this.sheets.setAttribute("aria-busy", "true");
    this.more.hidden = true;
    try {
      const { category, uncategorised, prefix } = this.place;
      const after = this.cursor;
      const how = { category, uncategorised: uncategorised || null, prefix, after, limit: SHEET };
      const found = await json(query("/catalogue", how), { signal: loading.signal });
      waiting.remove();
      if (loading.signal.aborted) return;
      this.append(found.products, after);
      this.cursor = found.next;
      this.more.hidden = found.next === null;
      this.showTotal(found.next === null && !this.place.from);
      if (!this.number) this.showEmpty();
    } catch (error) {
      waiting.remove();
      if (error.name === "AbortError") return;
      this.sheets.append(trouble(error, () => this.load()));
    }
    if (this.loading === loading) this.loading = null;
    this.sheets.removeAttribute("aria-busy");
    // Once more is there, the button may still be in sight: look again.
    this.ending.unobserve(this.more);
    this.ending.observe(this.more);
  }

  /** How many products there are, and how many of them are shown once all of those are read. */
  showTotal(whole) {
    if (this.all === undefined) return;
    const { prefix, category, uncategorised } = this.place;
    const filtered = Boolean(prefix || category || uncategorised);
    let some = whole && filtered ? this.number : null;
    if (filtered && !prefix) {
      some ??=
        this.categories.find((each) => each.category === (uncategorised ? null : category))?.products ?? null;
    }
    this.total.textContent = `${some === null ? "" : `${count(some)} of `}${several(this.all, "product")}`;
  }

  append(products, after) {
    if (!products.length) return;
    const from = this.number + 1;
    this.number += products.length;
    const sheet = make("ul", {
      class: "grid sheet",
      role: "list",
      "aria-label": `Products ${count(from)} to ${count(this.number)}`,
    });
    sheet.products = products;
    sheet.after = after;
    this.fill(sheet);
    this.sheets.append(sheet);
    this.nearing.observe(sheet);
    settle(this.sheets);
    if (from > 1) say(`${several(products.length, "more product")}, ${count(this.number)} in all`);
  }

  fill(sheet) {
    const place = { view: "product", picked: this.place.picked };
    sheet.replaceChildren(
      ...sheet.products.map((each) => tile(each, write({ ...place, product: each.product_id }))),
    );
    sheet.style.height = "";
  }

  /** Sheets far away keep their place and lose their pictures: thousands of products stay light. */
  unload(seen) {
    if (this.root.hidden) return;
    for (const { target: sheet, isIntersecting } of seen) {
      if (isIntersecting && !sheet.childElementCount) {
        this.fill(sheet);
        settle(this.sheets);
      } else if (!isIntersecting && sheet.childElementCount && !sheet.contains(document.activeElement)) {
        const height = sheet.offsetHeight;
        if (!height) continue;
        sheet.style.height = `${height}px`;
        sheet.replaceChildren();
      }
    }
  }

  /** Keep in the address where one is, so that a link leads here. */
  note() {
    if (this.root.hidden || !this.place) return;
    const sheets = [...this.sheets.querySelectorAll(".sheet")];
    const at = sheets.findLast((each) => each.getBoundingClientRect().top < innerHeight / 3);
    const from = at?.after ?? this.place.from ?? null;
    if (from === this.place.from) return;
    this.place = { ...this.place, from };
    go(this.place, { replace: true });
  }

  showEmpty() {
    const { prefix, category } = this.place;
    let words = "The catalogue is empty. Add products with the shop's backend, or with lookalike add.";
    const within = category ? ` in ${category}` : "";
    if (prefix) words = `No product id begins with “${prefix}”${within}. Capital letters count.`;
    else if (category) words = `There is nothing in ${category} any more.`;
    else if (this.place.uncategorised) words = "Every product has a category.";
    const all = { view: "catalogue", prefix: "", category: null, uncategorised: false };
    this.sheets.append(
      make(
        "div",
        { class: "empty" },
        make("p", { text: words }),
        prefix || category || this.place.uncategorised
          ? make("a", { class: "button", href: write(all), "data-go": true, text: "Show all products" })
          : null,
      ),
    );
    say(words);
  }

  async loadCategories() {
    this.showChips();
    try {
      const found = await json("/categories");
      this.categories = found.categories;
      this.all = found.total;
      this.showTotal(this.more.hidden && this.number > 0 && !this.place.from);
      this.showChips();
    } catch (error) {
      if (!this.categories) this.total.replaceChildren(trouble(error, () => this.loadCategories()));
    }
  }

  showChips() {
    if (!this.categories) {
      this.chips.replaceChildren(...Array.from({ length: 6 }, () => make("li", { class: "chip skeleton" })));
      return;
    }
    const many = this.categories.length > CHIPS + 3;
    this.find.hidden = !many;
    const typed = this.find.value.trim().toLowerCase();
    const named = this.categories.filter(({ category }) => category !== null);
    const found = typed
      ? named.filter(({ category }) => category.toLowerCase().includes(typed)).slice(0, CHIPS_FOUND)
      : named.filter(({ category }, at) => !many || at < CHIPS || category === this.place.category);
    const none = this.categories.find(({ category }) => category === null);
    const { prefix } = this.place;
    const place = { view: "catalogue", prefix };
    const chips = [this.chip("All", this.all, place, !this.place.category && !this.place.uncategorised)];
    for (const { category, products } of found) {
      chips.push(this.chip(category, products, { ...place, category }, category === this.place.category));
    }
    if (none && !typed) {
      chips.push(
        this.chip("No category", none.products, { ...place, uncategorised: true }, this.place.uncategorised),
      );
    }
    if (typed && !found.length) chips.push(make("li", { class: "chip-none", text: "No such category" }));
    const focused = this.chips.contains(document.activeElement)
      ? document.activeElement.getAttribute("href")
      : null;
    this.chips.replaceChildren(...chips);
    this.revealChip();
    if (focused) this.chips.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus();
  }

  /** Where the chips are a row that scrolls, have the chosen one in sight. */
  revealChip() {
    const chosen = this.chips.querySelector("[aria-current]");
    if (!chosen) return;
    const [row, chip] = [this.chips.getBoundingClientRect(), chosen.getBoundingClientRect()];
    if (chip.left < row.left || chip.right > row.right)
      this.chips.scrollLeft += chip.left - row.left - row.width / 3;
  }

  chip(name, products, place, current) {
    const link = make(
      "a",
      { class: "chip", href: write(place), "data-go": true, "aria-current": current ? "true" : null },
      make("span", { text: name }),
      make("span", { class: "chip-count", text: count(products ?? 0) }),
    );
    return make("li", {}, link);
  }

  /** Put the focus on the first product. */
  focusFirst() {
    this.sheets.querySelector('.look[tabindex="0"]')?.focus();
  }

  /** Put the focus on a product, if it is shown, or else on the title. */
  focus(id) {
    const found = [...this.sheets.querySelectorAll(".tile")].find((each) => each.dataset.id === id);
    (found?.querySelector(".look") ?? byId("catalogue-title")).focus({ preventScroll: true });
  }
}

/** What the catalogue says of one product. Throws Problem; null when it is not there. */
export async function productOf(id, signal) {
  const { products } = await json(query("/catalogue", { prefix: id, limit: 5 }), { signal });
  const found = products.find((each) => each.product_id === id) ?? null;
  if (found) remember(found);
  return found;
}
