// Products as pictures in a grid.

import { isStill, make } from "./elements.js";
import { thumbnail } from "./pictures.js";

const known = new Map();

/** Note what is known of a product, so that it need not be asked for again. */
export function remember(product) {
  known.set(product.product_id, { ...product });
}

/** What is known of a product, or nothing. */
export const recall = (id) => known.get(id) ?? null;

/** The names of attributes seen so far, and of each some values. */
export function seen() {
  const found = new Map();
  for (const { attributes } of known.values()) {
    for (const [name, value] of Object.entries(attributes)) {
      const values = found.get(name) ?? found.set(name, new Set()).get(name);
      for (const each of Array.isArray(value) ? value : [value]) {
        if (values.size < 100) values.add(each);
      }
    }
  }
  return found;
}

/** A product as a picture that leads on; `more` goes into the link's caption, `below` stands outside of it. */
export function tile(product, href, { more = [], below = [] } = {}) {
  remember(product);
  const link = make(
    "a",
    { class: "look", href, "data-go": true, "data-stop": true, tabindex: "-1" },
    make("span", { class: "well" }, thumbnail(product.product_id, product.name)),
    make("span", { class: "name", text: product.product_id, title: product.product_id }),
    make("span", { class: "kind", text: product.category ?? "" }),
    ...more,
  );
  const item = make("li", { class: "tile" }, link, ...below);
  item.dataset.id = product.product_id;
  return item;
}

/** Places that are kept while pictures are on their way. */
export function skeletons(number) {
  return Array.from({ length: number }, () =>
    make(
      "li",
      { class: "tile skeleton", "aria-hidden": "true" },
      make("span", { class: "well" }),
      make("span", { class: "name" }),
    ),
  );
}

/**
 * Fill a list with these items in this order. An item that was there stays the same element, so that its picture
 * does not blink, and glides to its new place.
 */
export function arrange(list, items, create, update) {
  const old = new Map([...list.children].map((each) => [each.dataset.id, each]));
  const before = isStill() ? new Map() : places(old.values());
  const now = items.map((item) => {
    const element = old.get(item.product_id);
    if (element === undefined) return create(item);
    update(element, item);
    return element;
  });
  const held = document.activeElement;
  list.replaceChildren(...now);
  if (list.contains(held) && held !== document.activeElement) held.focus({ preventScroll: true });
  glide(now, before);
}

function places(elements) {
  const found = new Map();
  for (const each of elements) found.set(each, each.getBoundingClientRect());
  return found;
}

function glide(elements, before) {
  for (const each of elements) {
    const was = before.get(each);
    if (was === undefined || was.width === 0) continue;
    const is = each.getBoundingClientRect();
    const [x, y] = [was.left - is.left, was.top - is.top];
    if (x === 0 && y === 0) continue;
    each.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], {
      duration: 320,
      easing: "cubic-bezier(.2, .7, .2, 1)",
    });
  }
}
