// Thumbnails: plain addresses where the service is open; fetched with the key where it is not.

import { isOpen, request } from "./service.js";

const AT_ONCE = 6;
const address = (id, name) =>
  `/thumbnails/${encodeURIComponent(id)}?name=${encodeURIComponent(name ?? "main")}`;

let running = 0;
const waiting = [];
const nearing = new IntersectionObserver(arrive, { rootMargin: "600px" });
const wanted = new WeakMap();

/** An image of a product's picture, loaded when it comes near; its place is kept, and says when there is none. */
export function thumbnail(id, name, { alt = "", eager = false } = {}) {
  const image = document.createElement("img");
  image.alt = alt;
  image.decoding = "async";
  image.draggable = false;
  image.addEventListener("load", () => image.classList.add("loaded"));
  image.addEventListener("error", () => image.classList.add("lost"));
  if (isOpen()) {
    image.loading = eager ? "eager" : "lazy";
    image.src = address(id, name);
  } else {
    wanted.set(image, address(id, name));
    nearing.observe(image);
  }
  return image;
}

/** An image of a picture that somebody brought. */
export function preview(url, alt) {
  const image = document.createElement("img");
  image.alt = alt;
  image.addEventListener("load", () => image.classList.add("loaded"));
  image.addEventListener("error", () => image.classList.add("lost"));
  image.src = url;
  return image;
}

function arrive(entries) {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    nearing.unobserve(entry.target);
    waiting.push(entry.target);
  }
  work();
}

function work() {
  while (running < AT_ONCE && waiting.length) {
    const image = waiting.pop();
    if (!image.isConnected) continue;
    running += 1;
    bring(image).finally(() => {
      running -= 1;
      work();
    });
  }
}

async function bring(image) {
  try {
    const url = URL.createObjectURL(await (await request(wanted.get(image))).blob());
    // Once it is decoded the image needs its address no more.
    const revoke = () => URL.revokeObjectURL(url);
    image.addEventListener("load", revoke, { once: true });
    image.addEventListener("error", revoke, { once: true });
    image.src = url;
  } catch {
    image.classList.add("lost");
  }
}
