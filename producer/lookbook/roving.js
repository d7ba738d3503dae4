// One stop for the Tab key in a grid of any size; arrow keys move within it.

const MOVES = {
  ArrowLeft: (tiles, at) => tiles[at - 1],
  ArrowRight: (tiles, at) => tiles[at + 1],
  ArrowUp: (tiles, at) => across(tiles, at, -1),
  ArrowDown: (tiles, at) => across(tiles, at, 1),
  Home: (tiles) => tiles[0],
  End: (tiles) => tiles.at(-1),
};

/** Make the tiles below an element one stop. `keys` are what other keys do to the tile that has the focus. */
export function rove(root, keys = {}) {
  root.addEventListener("focusin", (event) => {
    const tile = event.target.closest(".tile");
    if (tile) stop(root, tile);
  });
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const tile = event.target.closest(".tile");
    if (!tile) return;
    if (event.key in keys) {
      event.preventDefault();
      keys[event.key](tile);
    } else if (event.key in MOVES) {
      move(root, tile, event);
    }
  });
}

/** Let Tab stop at one tile: the one that had it, or the first. */
export function settle(root) {
  const active = root.querySelector('.tile .look[tabindex="0"]')?.closest(".tile");
  const first = active ?? root.querySelector(".tile:not(.skeleton)");
  if (first) stop(root, first);
}

function move(root, tile, event) {
  const tiles = [...root.querySelectorAll(".tile:not(.skeleton)")];
  const next = MOVES[event.key](tiles, tiles.indexOf(tile));
  event.preventDefault();
  if (!next) return;
  next.querySelector(".look").focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
}

function stop(root, tile) {
  for (const each of root.querySelectorAll('[data-stop][tabindex="0"]')) {
    if (!tile.contains(each)) each.tabIndex = -1;
  }
  for (const each of tile.querySelectorAll("[data-stop]")) each.tabIndex = 0;
}

/** The tile of the next row, in this direction, that is nearest to the one above or below it. */
function across(tiles, at, direction) {
  const from = tiles[at].getBoundingClientRect();
  let best;
  let row;
  for (let i = at + direction; i >= 0 && i < tiles.length; i += direction) {
    const to = tiles[i].getBoundingClientRect();
    if ((to.top - from.top) * direction < from.height / 2) continue;
    row ??= to.top;
    if (Math.abs(to.top - row) > from.height / 2) break;
    const away = Math.abs(to.left - from.left);
    if (best === undefined || away < best.away) best = { tile: tiles[i], away };
  }
  return best?.tile;
}
