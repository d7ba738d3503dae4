// Numbers, times and reasons in words.

const NUMBER = new Intl.NumberFormat("en");

export const count = (number) => NUMBER.format(number);

/** "1 change", "3 changes". */
export const several = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** A cosine as a share of a hundred. */
export const percent = (share) => `${Math.round(share * 100)}%`;

/** Seconds in the unit that one would use. */
export function duration(seconds) {
  if (seconds < 1) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 36 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export const age = (at) => duration(Math.max(0, (Date.now() - Date.parse(at)) / 1000));

export const moment = (at) =>
  new Date(at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** A value of an attribute as people say it. */
export function value(of) {
  if (Array.isArray(of)) return of.map(value).join(", ");
  if (of === true) return "yes";
  if (of === false) return "no";
  if (of === null || of === undefined) return "none";
  return typeof of === "number" ? String(of) : of;
}

export const label = (attribute) => attribute.replaceAll("_", " ");

const SIGNS = { lt: "<", le: "≤", gt: ">", ge: "≥" };

/** A condition as people say it: "price < 50", "brand: this or that". */
export function condition(key, of) {
  if (Array.isArray(of)) return `${label(key)}: ${of.map(value).join(" or ")}`;
  if (of !== null && typeof of === "object") {
    const bounds = Object.entries(of).map(([bound, number]) => `${SIGNS[bound] ?? bound} ${number}`);
    return `${label(key)} ${bounds.join(" and ")}`;
  }
  return `${label(key)}: ${value(of)}`;
}

const REASONS = {
  unsupported_format: "Not a kind of picture that is read here",
  corrupt_image: "The picture is broken or cut off",
  too_large: "The picture is too large",
  decode_timeout: "The picture took too long to open",
  decoder_died: "Opening the picture ended the process that tried",
  not_found: "There is no picture at the address",
  path_denied: "The file is outside the folders that may be read",
  bucket_denied: "The bucket is not one that may be read",
  blocked_address: "The address is not one that may be fetched",
  fetch_failed: "The picture's server or disk failed",
  fetch_timeout: "The picture's server was too slow",
  bytes_expired: "The picture that was sent is gone",
  bad_vector: "The network could make nothing of the picture",
  worker_failed: "Three processes died of it",
  unavailable: "The catalogue was away",
  internal: "It failed unexpectedly, each time",
  invalid_message: "The message is of another version",
  unknown_generation: "That generation is not kept any more",
  not_in_generation: "The product came after that generation",
};

/** What a reason code means. */
export const reason = (code) => REASONS[code] ?? code;
