// Elements of the page. Whatever a shop calls its products is text here, never markup.

const SVG = "http://www.w3.org/2000/svg";

const PATHS = {
  picture: "M4 5.5h16v13H4zM4 15l4.5-4 4 3.5 3-2.5 4.5 4M15.5 9h.01",
  up: "M8 10.5v9H4.5v-9zM8 11l3.5-7c1.5 0 2.5 1 2.5 2.5V10h4.2c1.2 0 2 1 1.8 2.2l-1 5.6c-.2 1-1 1.7-2 1.7H8",
  down: "M16 13.5v-9h3.5v9zM16 13l-3.5 7C11 20 10 19 10 17.5V14H5.8c-1.2 0-2-1-1.8-2.2l1-5.6c.2-1 1-1.7 2-1.7h9",
  close: "M6 6l12 12M18 6L6 18",
  both: "M5 9.5h14M5 14.5h14",
  only: "M12 5v14M5 12h14",
  sliders: "M4 8h9M17 8h3M4 16h3M11 16h9M15 5.5v5M9 13.5v5",
  columns: "M4 5h7v14H4zM13 5h7v14h-7z",
  back: "M14.5 5.5L8 12l6.5 6.5",
};

/**
 * Make an element. A property that begins with "on" is a listener, `text` and `value` are set as such, and every
 * other is an attribute: left out when null or false, empty when true. Children that are null are left out.
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((each) => each !== null && each !== undefined));
  return element;
}

/** A small drawing beside words, or in a button that has a name. */
export function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 24 24");
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  drawing.append(path);
  return drawing;
}

export const byId = (id) => document.getElementById(id);

/** Text that only a screen reader says. */
export const unseen = (text) => make("span", { class: "unseen", text });

/** Call `done` once no call came for so many milliseconds. */
export function settled(milliseconds, done) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => done(...given), milliseconds);
  };
}

/** Whether the reader of the page wants it to hold still. */
export const isStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Say something to a screen reader, and show it for a moment. */
export function say(text, { shown = false } = {}) {
  // What is behind an open dialog is not said.
  const dialog = [...document.querySelectorAll("dialog[open] [role=status]")].at(-1);
  (dialog ?? byId("said")).textContent = text;
  if (shown && !dialog) toast(text);
}

let fading = 0;
function toast(text) {
  const place = byId("toast");
  place.textContent = text;
  place.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => place.classList.remove("shown"), 4000);
}

/** A problem where it happened, with a button that tries again. */
export function trouble(error, again) {
  const retry = () => {
    // The button goes; whoever pressed a key on it stays on the page.
    byId("view").focus({ preventScroll: true });
    again();
  };
  const detail = error.detail && error.detail !== error.title ? error.detail : null;
  return make(
    "div",
    { class: "trouble", role: "alert" },
    make("p", { class: "trouble-title", text: error.title ?? String(error.message ?? error) }),
    detail === null ? null : make("p", { text: detail }),
    again ? make("button", { type: "button", onclick: retry, text: "Try again" }) : null,
  );
}
