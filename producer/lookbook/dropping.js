// Pictures that somebody brings: dropped anywhere, chosen, or pasted.

import { byId, say } from "./elements.js";

const KEPT = 12;

/** The pictures brought since the page was loaded, by a key that an address can hold. */
export class Brought {
  constructor() {
    this.pictures = new Map();
  }

  get(key) {
    return this.pictures.get(key) ?? null;
  }

  add(file) {
    const key = Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) =>
      byte.toString(16).padStart(2, "0"),
    ).join("");
    this.pictures.set(key, { file, url: URL.createObjectURL(file) });
    for (const [old, { url }] of this.pictures) {
      if (this.pictures.size <= KEPT) break;
      URL.revokeObjectURL(url);
      this.pictures.delete(old);
    }
    return key;
  }
}

/** Call `took(file)` for every picture that is brought. */
export function watch(took) {
  const curtain = byId("drop");
  const input = byId("file");
  let depth = 0;
  const lift = (event) => {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return false;
    event.preventDefault();
    return true;
  };
  const show = (on) => {
    curtain.hidden = !on;
  };
  addEventListener("dragenter", (event) => {
    if (lift(event)) {
      depth += 1;
      show(true);
    }
  });
  addEventListener("dragover", (event) => {
    if (lift(event)) event.dataTransfer.dropEffect = "copy";
  });
  addEventListener("dragleave", (event) => {
    if (!lift(event)) return;
    depth = Math.max(0, depth - 1);
    show(depth > 0);
  });
  addEventListener("drop", (event) => {
    depth = 0;
    show(false);
    if (lift(event)) take(event.dataTransfer.files, took);
  });
  addEventListener("paste", (event) => {
    const files = event.clipboardData?.files ?? [];
    if (files.length) {
      event.preventDefault();
      take(files, took);
    }
  });
  input.addEventListener("change", () => {
    take(input.files, took);
    input.value = "";
  });
  byId("choose").addEventListener("click", () => input.click());
}

function take(files, took) {
  const file = [...files].find(({ type }) => type === "" || type.startsWith("image/"));
  if (file) took(file);
  else if (files.length)
    say("That is no picture: bring a JPEG, PNG, WebP, GIF, BMP or TIFF.", { shown: true });
}
