// What of the nearest is shown: how many, how varied, how alike at least, and which.

import { icon, make, unseen } from "./elements.js";
import { json } from "./service.js";
import { seen } from "./tiles.js";
import { condition, count, label, percent } from "./words.js";

const SIGNS = [
  ["=", "is"],
  ["<", "below"],
  ["<=", "at most"],
  [">", "above"],
  [">=", "at least"],
];
const BOUNDS = { "<": "lt", "<=": "le", ">": "gt", ">=": "ge" };
const LISTED = 200;

/** The controls. Calls `changed(picked)` at every movement. */
export class Controls {
  constructor(changed) {
    this.changed = changed;
    this.picked = null;
    this.limit = slider(
      "How many",
      { min: 6, max: 96, step: 6 },
      (number) => count(number),
      (limit) => this.set({ limit }),
    );
    this.diversity = slider(
      "Variety",
      { min: 0, max: 1, step: 0.05 },
      (number) => (number ? percent(number) : "off"),
      (diversity) => this.set({ diversity }),
    );
    this.alike = slider(
      "At least this alike",
      { min: 0, max: 1, step: 0.01 },
      (number) => (number ? percent(number) : "any"),
      (alike) => this.set({ alike }),
    );
    this.once = make("input", { type: "checkbox", onchange: () => this.set({ once: this.once.checked }) });
    this.kinds = make("div", { class: "menu-list" });
    this.kindsLabel = make("span", { text: "Any category" });
    this.kindsFind = make("input", {
      type: "search",
      placeholder: "Find",
      "aria-label": "Find a category",
      oninput: () => this.showKinds(),
    });
    this.conditions = make("ul", { class: "conditions", role: "list", "aria-label": "Conditions" });
    this.root = make(
      "div",
      { class: "controls", role: "group", "aria-label": "What is shown" },
      make(
        "div",
        { class: "sliders" },
        this.limit.root,
        this.diversity.root,
        this.alike.root,
        make("label", { class: "check" }, this.once, make("span", { text: "Same picture once" })),
      ),
      make(
        "div",
        { class: "filters" },
        menu(this.kindsLabel, this.kindsFind, this.kinds, () => this.loadKinds()),
        this.builder(),
        this.conditions,
      ),
    );
  }

  /** Show what is picked. */
  show(picked) {
    this.picked = picked;
    this.limit.show(picked.limit);
    this.diversity.show(picked.diversity);
    this.alike.show(picked.alike);
    this.once.checked = picked.once;
    this.showConditions();
    this.showKinds();
  }

  set(change) {
    this.picked = { ...this.picked, ...change };
    this.changed(this.picked);
  }

  /** Add a condition on an attribute or the category; one on the same is replaced, bounds are put together. */
  narrow(key, of) {
    const is = this.picked.where[key];
    const both = isRange(is) && isRange(of) ? { ...is, ...of } : of;
    this.set({ where: { ...this.picked.where, [key]: both } });
    this.show(this.picked);
  }

  widen(key) {
    const { [key]: _, ...where } = this.picked.where;
    this.set({ where });
    this.show(this.picked);
  }

  showConditions() {
    const chips = Object.entries(this.picked.where).map(([key, of]) => {
      const words = condition(key, of);
      const remove = make(
        "button",
        { type: "button", class: "chip on", onclick: () => this.widen(key) },
        make("span", { text: words }),
        icon("close"),
        unseen(" – remove this condition"),
      );
      return make("li", {}, remove);
    });
    this.conditions.replaceChildren(...chips);
    this.conditions.hidden = !chips.length;
  }

  async loadKinds() {
    if (this.all) return;
    this.kinds.textContent = "Asking …";
    try {
      this.all = (await json("/categories")).categories.filter(({ category }) => category !== null);
      this.showKinds();
    } catch (error) {
      this.kinds.textContent = `${error.title}. ${error.detail}`;
    }
  }

  showKinds() {
    const is = this.picked.where.category;
    const chosen = new Set(is === undefined ? [] : [is].flat());
    this.kindsLabel.textContent = chosen.size ? "Category" : "Any category";
    if (!this.all) return;
    const typed = this.kindsFind.value.trim().toLowerCase();
    this.kindsFind.hidden = this.all.length <= 12;
    const found = this.all
      .filter(({ category }) => category.toLowerCase().includes(typed) || chosen.has(category))
      .slice(0, LISTED);
    const held = this.kinds.querySelector(":focus")?.value;
    this.kinds.replaceChildren(
      ...found.map(({ category, products }) => {
        const box = make("input", { type: "checkbox", onchange: () => this.choose(category, box.checked) });
        box.value = category;
        box.checked = chosen.has(category);
        return make(
          "label",
          { class: "check" },
          box,
          make("span", { text: category }),
          make("span", { class: "chip-count", text: count(products) }),
        );
      }),
      ...(found.length ? [] : [make("p", { text: "No such category" })]),
    );
    if (held !== undefined)
      [...this.kinds.querySelectorAll("input")].find((each) => each.value === held)?.focus();
  }

  choose(category, on) {
    const is = this.picked.where.category;
    const chosen = new Set(is === undefined ? [] : [is].flat());
    if (on) chosen.add(category);
    else chosen.delete(category);
    const list = [...chosen];
    if (list.length) this.narrow("category", list.length === 1 ? list[0] : list);
    else this.widen("category");
  }

  builder() {
    const names = make("datalist", { id: "attribute-names" });
    const values = make("datalist", { id: "attribute-values" });
    const key = make("input", {
      type: "text",
      list: "attribute-names",
      placeholder: "attribute",
      "aria-label": "Attribute",
      maxlength: "255",
      autocomplete: "off",
      autocapitalize: "off",
      spellcheck: "false",
    });
    const sign = make(
      "select",
      { "aria-label": "How it is compared" },
      ...SIGNS.map(([value, text]) => make("option", { value, text })),
    );
    const value = make("input", {
      type: "text",
      list: "attribute-values",
      placeholder: "value",
      "aria-label": "Value",
      autocomplete: "off",
      autocapitalize: "off",
      spellcheck: "false",
    });
    const wrong = make("p", { class: "wrong", role: "alert" });
    const refill = () => {
      const found = seen();
      names.replaceChildren(...[...found.keys()].map((each) => make("option", { value: each })));
      const known = [...(found.get(key.value.trim()) ?? [])];
      values.replaceChildren(...known.map((each) => make("option", { value: String(each) })));
    };
    const form = make(
      "form",
      {
        class: "builder",
        onfocusin: refill,
        onsubmit: (event) => {
          event.preventDefault();
          wrong.textContent = this.add(key.value.trim(), sign.value, value.value.trim());
          if (!wrong.textContent) form.reset();
        },
      },
      names,
      values,
      key,
      sign,
      value,
      make("button", { type: "submit", text: "Add" }),
      wrong,
    );
    const summary = make("summary", { class: "button" }, make("span", { text: "Add a condition" }));
    return shutting(make("details", { class: "menu" }, summary, make("div", { class: "menu-body" }, form)));
  }

  /** Add what was written; what is wrong with it, or nothing. */
  add(key, sign, text) {
    if (!key || !text) return "Write an attribute and a value.";
    const value = scalar(text);
    if (sign === "=") {
      this.narrow(key, key === "category" ? text : known(key, value));
      return "";
    }
    if (typeof value !== "number") return `“${label(key)}” is compared with a number.`;
    this.narrow(key, { [BOUNDS[sign]]: value });
    return "";
  }
}

const isRange = (of) => of !== null && typeof of === "object" && !Array.isArray(of);

/** A value that was written, as the catalogue has it: 38 may be a number there, or text. */
function known(key, value) {
  const values = seen().get(key);
  if (values === undefined || values.has(value)) return value;
  return [...values].find((each) => String(each) === String(value)) ?? value;
}

function scalar(text) {
  if (/^(true|yes)$/i.test(text)) return true;
  if (/^(false|no)$/i.test(text)) return false;
  return /^-?(0|[1-9]\d{0,14})(\.\d{1,15})?$/.test(text) ? Number(text) : text.replace(/^"(.*)"$/, "$1");
}

function slider(name, range, words, moved) {
  const output = make("span", { class: "slider-value", "aria-hidden": "true" });
  const input = make("input", { type: "range", ...range });
  const show = () => {
    output.textContent = words(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    show();
    moved(Number(input.value));
  });
  const root = make(
    "label",
    { class: "slider" },
    make("span", { class: "slider-name" }, make("span", { text: name }), output),
    input,
  );
  return {
    root,
    show: (number) => {
      input.value = number;
      show();
    },
  };
}

function menu(words, find, list, opened) {
  const details = make(
    "details",
    {
      class: "menu",
      ontoggle: () => {
        if (details.open) opened();
      },
    },
    make("summary", { class: "button" }, words),
    make("div", { class: "menu-body" }, find, list),
  );
  return shutting(details);
}

/** A menu that shuts at Escape, and when one goes elsewhere. */
function shutting(details) {
  details.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !details.open) return;
    event.stopPropagation();
    details.open = false;
    details.querySelector("summary").focus();
  });
  details.addEventListener("focusout", ({ relatedTarget }) => {
    // A press on words in the menu gives the focus to what is around it, which is not elsewhere; to shut the menu
    // then takes a label away under the pointer, at which Chromium's tab crashes.
    if (relatedTarget && !details.contains(relatedTarget) && !relatedTarget.contains(details)) details.open = false;
  });
  document.addEventListener("pointerdown", ({ target }) => {
    if (!details.contains(target)) details.open = false;
  });
  return details;
}
