// What is shown is in the page's address, so that Back works and a link can be shared.

export const LIMIT = 24;

/** What an address says to show. */
export function read(search = location.search) {
  const said = new URLSearchParams(search);
  const place = {
    view: said.has("product") ? "product" : said.has("picture") ? "picture" : "catalogue",
    product: said.get("product"),
    picture: said.get("picture"),
    category: said.get("category"),
    uncategorised: said.has("uncategorised"),
    prefix: said.get("prefix") ?? "",
    from: said.get("from"),
    left: said.get("left"),
    right: said.get("right"),
    picked: {
      limit: within(said.get("limit"), 1, 200, LIMIT),
      diversity: within(said.get("diversity"), 0, 1, 0),
      alike: within(said.get("alike"), 0, 1, 0),
      once: said.has("once"),
      where: conditions(said.get("where")),
    },
  };
  return place;
}

/** The address of a place. */
export function write(place) {
  const said = new URLSearchParams();
  if (place.view === "catalogue") {
    if (place.uncategorised) said.set("uncategorised", "true");
    else if (place.category) said.set("category", place.category);
    if (place.prefix) said.set("prefix", place.prefix);
    if (place.from) said.set("from", place.from);
  } else {
    said.set(place.view, place[place.view]);
    pick(said, place.picked);
    if (place.right) {
      said.set("left", place.left ?? "live");
      said.set("right", place.right);
    }
  }
  const text = said.toString();
  return text ? `?${text}` : "./";
}

function pick(said, { limit, diversity, alike, once, where }) {
  if (limit !== LIMIT) said.set("limit", limit);
  if (diversity) said.set("diversity", diversity);
  if (alike) said.set("alike", alike);
  if (once) said.set("once", "1");
  if (Object.keys(where).length) said.set("where", JSON.stringify(where));
}

function within(text, least, most, otherwise) {
  const number = Number(text);
  return text === null || text === "" || !(number >= least && number <= most) ? otherwise : number;
}

function conditions(text) {
  try {
    const found = JSON.parse(text ?? "{}");
    return found !== null && typeof found === "object" && !Array.isArray(found) ? found : {};
  } catch {
    return {};
  }
}

/** The trail that led to the entry of the browser's history that is shown: products and pictures. */
export const trail = () => history.state?.trail ?? [];

/** Where in the catalogue one was last. */
export const home = () => read(history.state?.home?.replace("./", "") ?? "");

/** Show another place; `replace` when it is the same one seen a little differently. */
export function go(place, { replace = false, trail: steps = trail() } = {}) {
  const address = write(place);
  const state = {
    trail: steps.slice(-12),
    home: place.view === "catalogue" ? address : (history.state?.home ?? "./"),
  };
  if (replace) history.replaceState(state, "", address);
  else history.pushState(state, "", address);
}
