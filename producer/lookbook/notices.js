// What is said in words beside, or instead of, the pictures.

import { byId, make } from "./elements.js";
import { count, percent, several } from "./words.js";

/** What answered: how many, which generation, how new and by what path. */
export function answeredBy({ matches, generation, as_of, pending, path }) {
  const index = generation === null ? "no index yet: all pictures were read" : `generation ${generation}`;
  const newer = pending ? `, ${several(pending, "newer change")} included` : "";
  return `${several(matches.length, "nearest", "nearest")} · ${index}${newer} · revision ${count(as_of.revision)} · ${path}`;
}

/** What the lines and numbers under pictures mean. */
export function legend(more = "") {
  return make(
    "p",
    { class: "legend" },
    more,
    "Nearest first. The line under a picture, and its percentage, say how alike the pictures are to the network: the ",
    "cosine of their vectors, full for the same picture. d is the distance between them: 0 the same, 1.41 unrelated.",
  );
}

/** Why there is no match, and what to do about it. */
export function nothing({ alike, where }) {
  const filtered = Object.keys(where).length > 0;
  let words = "There is nothing else in the catalogue to compare it with.";
  if (alike && filtered)
    words = `Nothing that meets the conditions is at least ${percent(alike)} alike: lower it, or remove a condition.`;
  else if (alike) words = `Nothing is at least ${percent(alike)} alike: lower “At least this alike”.`;
  else if (filtered) words = "No other product meets these conditions: remove one.";
  return make("div", { class: "empty" }, make("p", { text: words }));
}

/** Said of a product that there is none of. */
export function productGone(id) {
  return make(
    "div",
    { class: "empty" },
    make("p", { text: `“${id}” is not in the catalogue, or not any more.` }),
    make("a", { class: "button", href: "./", "data-go": true, text: "To the catalogue" }),
  );
}

/** Said of a picture that the page has no more. */
export function pictureGone() {
  return make(
    "div",
    { class: "empty" },
    make("p", { text: "The picture is not kept when the page is loaded anew: drop it here again." }),
    make("button", {
      type: "button",
      class: "button",
      text: "Choose a picture",
      onclick: () => byId("file").click(),
    }),
  );
}
