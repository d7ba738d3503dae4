// Small dialogs: the key, a question before what cannot be taken back, and the keys of the keyboard.

import { byId, make } from "./elements.js";
import { access, forget, hasKey, keep } from "./service.js";

const SHORTCUTS = "lookbook-shortcuts";
const KEYS = [
  ["/", "find a product by its id"],
  ["arrows", "move from picture to picture; Home and End to the first and last"],
  ["Enter", "see what looks like the picture"],
  ["+  −", "call the match good, or bad; once more takes it back"],
  ["p", "look with a picture of your own (or drop or paste it anywhere)"],
  ["s", "see how the service is"],
  ["Esc", "close what is open; go back to the catalogue"],
  ["?", "these keys"],
];

/** Whether keys without Ctrl do something; who speaks to the computer may not want that. */
export const hasShortcuts = () => localStorage.getItem(SHORTCUTS) !== "off";

/** Show the keys. */
export function showKeys() {
  const dialog = byId("keys");
  const box = make("input", {
    type: "checkbox",
    onchange: () => localStorage.setItem(SHORTCUTS, box.checked ? "on" : "off"),
  });
  box.checked = hasShortcuts();
  dialog.replaceChildren(
    make("h2", { id: "keys-title", text: "Keys" }),
    make(
      "dl",
      { class: "keys" },
      ...KEYS.map(([key, does]) =>
        make(
          "div",
          {},
          make("dt", {}, ...key.split("  ").map((each) => make("kbd", { text: each }))),
          make("dd", { text: does }),
        ),
      ),
    ),
    make("label", { class: "check" }, box, make("span", { text: "Letters and signs are shortcuts" })),
    make(
      "div",
      { class: "buttons" },
      make("button", { type: "button", class: "button", text: "Close", onclick: () => dialog.close() }),
    ),
  );
  if (!dialog.open) dialog.showModal();
}

/** Ask before doing; whether to do it. */
export function confirm(title, words, action) {
  const dialog = byId("confirm");
  return new Promise((resolve) => {
    const answer = (does) => () => {
      dialog.close();
      resolve(does);
    };
    dialog.replaceChildren(
      make("h2", { id: "confirm-title", text: title }),
      make("p", { text: words }),
      make(
        "div",
        { class: "buttons" },
        make("button", { type: "button", class: "button", text: "Cancel", onclick: answer(false) }),
        make("button", { type: "button", class: "button strong", text: action, onclick: answer(true) }),
      ),
    );
    dialog.addEventListener("close", () => resolve(false), { once: true });
    dialog.showModal();
  });
}

let asking = null;

/** Ask for the API key until one is good; many who ask at once ask once. Whether there is one now. */
export function askForKey() {
  asking ??= keyDialog().finally(() => {
    asking = null;
  });
  return asking;
}

function keyDialog() {
  forget();
  const dialog = byId("access");
  return new Promise((resolve) => {
    const input = make("input", {
      type: "password",
      id: "key",
      autocomplete: "off",
      spellcheck: "false",
      required: true,
      maxlength: "512",
      "aria-describedby": "key-wrong",
    });
    const wrong = make("p", { class: "wrong", id: "key-wrong", role: "alert" });
    const enter = async (event) => {
      event.preventDefault();
      wrong.textContent = await tried(input.value.trim());
      if (wrong.textContent) input.select();
      else dialog.close();
    };
    dialog.replaceChildren(
      make("h2", { id: "access-title", text: "A key, please" }),
      make("p", {
        text: "This catalogue is not open to everybody. The key stays in this tab, and is forgotten with it.",
      }),
      make(
        "form",
        { onsubmit: enter },
        make("label", { for: "key", text: "API key" }),
        input,
        wrong,
        make(
          "div",
          { class: "buttons" },
          make("button", { type: "submit", class: "button strong", text: "Look" }),
        ),
      ),
    );
    dialog.addEventListener("close", () => resolve(hasKey()), { once: true });
    // There is nothing to go back to without one.
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    if (!dialog.open) dialog.showModal();
    input.focus();
  });
}

/** Try a key; what is wrong with it, or nothing. */
async function tried(key) {
  if (!/^[!-~]+$/.test(key)) return "A key is made of letters, digits and signs, without spaces.";
  keep(key);
  try {
    const { scopes } = await access();
    if (scopes.includes("read")) return "";
    forget();
    return scopes.length ? "This key may add products, and not look." : "This key is not known here.";
  } catch (error) {
    forget();
    return `${error.title}. ${error.detail}`;
  }
}
