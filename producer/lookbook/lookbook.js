// The lookbook: shows what the page's address says, and goes where one clicks.

import { go, home, read, trail } from "./address.js";
import { Catalogue } from "./catalogue.js";
import { askForKey, hasShortcuts, showKeys } from "./dialogs.js";
import { Brought, watch } from "./dropping.js";
import { byId, icon, isStill, settled } from "./elements.js";
import { Neighbours } from "./neighbours.js";
import { access, whenLocked } from "./service.js";
import { Status } from "./status.js";

const brought = new Brought();
const catalogue = new Catalogue(byId("catalogue"));
const neighbours = new Neighbours(byId("neighbours"), brought);
const status = new Status();
const scrolled = { top: 0, product: null };
let begun = false;

/** Show what the address says. */
function show({ back = false } = {}) {
  const place = read();
  const wasCatalogue = !byId("catalogue").hidden;
  const isCatalogue = place.view === "catalogue";
  const came = neighbours.place?.product ?? null;
  byId("catalogue").hidden = !isCatalogue;
  byId("neighbours").hidden = isCatalogue;
  document.title = title(place);
  if (isCatalogue) {
    neighbours.leave();
    catalogue.show(place);
    // Who has just come begins at the top, with the link that skips to the pictures; who writes goes on writing.
    if (wasCatalogue || !begun || document.activeElement === byId("prefix")) return;
    scrollTo(0, back ? scrolled.top : 0);
    catalogue.focus(back ? (scrolled.product ?? came) : null);
  } else {
    const same = neighbours.subjectIs === (place.product ?? place.picture);
    neighbours.show(place);
    if (same || !begun) return;
    scrollTo(0, 0);
    byId("neighbours-title").focus({ preventScroll: true });
  }
}

function title({ view, product, category }) {
  if (view === "product") return `${product} – Lookbook`;
  if (view === "picture") return "Your picture – Lookbook";
  return category ? `${category} – Lookbook` : "Lookbook";
}

/** Go to a place, as a new entry of the browser's history. */
function travel(place, steps, picture = null) {
  if (!byId("catalogue").hidden) {
    scrolled.top = scrollY;
    scrolled.product = place.product ?? null;
  }
  go(place, { trail: steps });
  glide(show, picture);
}

/** Let the picture that was clicked become the large one, where the browser can and one wants it to. */
function glide(change, picture) {
  if (!picture || isStill() || !document.startViewTransition) {
    change();
    return;
  }
  const before = document.querySelector(".hero");
  if (before) before.style.viewTransitionName = "";
  picture.style.viewTransitionName = "picture";
  const transition = document.startViewTransition(() => {
    picture.style.viewTransitionName = "";
    change();
    const hero = document.querySelector(".hero");
    if (hero) hero.style.viewTransitionName = "picture";
  });
  transition.finished.finally(() => {
    const hero = document.querySelector(".hero");
    if (hero) hero.style.viewTransitionName = "";
  });
}

function follow(event) {
  const link = event.target.closest("a[data-go]");
  if (
    !link ||
    event.defaultPrevented ||
    event.button ||
    event.ctrlKey ||
    event.metaKey ||
    event.shiftKey ||
    event.altKey
  )
    return;
  event.preventDefault();
  if (link.dataset.home !== undefined) {
    leave();
    return;
  }
  const place = read(new URL(link.href).search);
  const step = neighbours.step();
  let steps = step === null ? [] : [...trail(), step];
  if (link.dataset.trail !== undefined) steps = trail().slice(0, Number(link.dataset.trail));
  travel(place, place.view === "catalogue" ? [] : steps, link.querySelector(".well"));
}

/** Back to the catalogue, where one left it. */
function leave() {
  go(home(), { trail: [] });
  show({ back: true });
}

function take(file) {
  const step = neighbours.step();
  const place = { ...read(), view: "picture", picture: brought.add(file), left: null, right: null };
  travel(place, step === null ? [] : [...trail(), step]);
}

/** Show the products whose ids begin with what is written. */
function search() {
  const prefix = byId("prefix").value.trim();
  const now = read();
  if (now.view === "catalogue" && now.prefix === prefix) return;
  const place = { ...home(), prefix, from: null };
  const elsewhere = now.view !== "catalogue";
  go(place, { replace: !elsewhere, trail: [] });
  show();
}

const SHORTCUTS = {
  "/": () => byId("prefix").select(),
  "?": showKeys,
  p: () => byId("file").click(),
  s: () => status.open(),
};

function press(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  const writing = event.target.matches("input:not([type=range], [type=checkbox]), textarea, select");
  if (event.key === "Escape") {
    if (event.target.matches("select")) return;
    if (event.target === byId("prefix")) byId("prefix").blur();
    else if (!byId("neighbours").hidden) leave();
  } else if (!writing && hasShortcuts() && event.key in SHORTCUTS) {
    event.preventDefault();
    SHORTCUTS[event.key]();
  }
}

async function begin() {
  for (const place of document.querySelectorAll("[data-icon]")) place.replaceWith(icon(place.dataset.icon));
  if ("scrollRestoration" in history) history.scrollRestoration = "manual";
  if (history.state === null) go(read(), { replace: true });
  byId("prefix").value = read().prefix;
  byId("prefix").addEventListener("input", settled(180, search));
  byId("search").addEventListener("submit", async (event) => {
    event.preventDefault();
    search();
    await catalogue.ready;
    catalogue.focusFirst();
  });
  byId("home").addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    travel(read(""), []);
  });
  byId("keys-open").addEventListener("click", showKeys);
  document.addEventListener("click", follow);
  document.addEventListener("keydown", press);
  addEventListener("popstate", () => show({ back: true }));
  watch(take);
  whenLocked(async () => (await askForKey()) && true);
  await enter();
  show();
  begun = true;
  status.look();
}

/** Have a key, where one is needed. */
async function enter() {
  try {
    const { open, scopes } = await access();
    if (!open && !scopes.includes("read")) await askForKey();
  } catch {
    // Whatever is asked next says what is wrong, where it is to be seen.
  }
}

begin();
