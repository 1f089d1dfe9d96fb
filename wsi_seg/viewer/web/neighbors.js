// The slides before and after the one that is shown, in the list that it was opened from.

import { api, listQuery, slidePath } from "./api.js";
import { h, say } from "./dom.js";
import { newState, writeState } from "./state.js";

/** @typedef {import("./screen.js").SlideScreen} Screen */
/**
 * The place of one in a list.
 * @template T
 * @typedef {{previous: T | null, next: T | null, position: number | null, total: number}} Place
 */

/**
 * Show the slide before or after this one; layers and colors stay as they are.
 * @param {Screen} screen
 * @param {"previous" | "next"} which
 */
export async function goToNeighbor(screen, which) {
  try {
    screen.reviewing?.refuseUnsaved();
    /** @type {Place<string>} */
    const found = await api(slidePath(screen.slide.id, `/neighbors?${listQuery(screen.state.list)}`));
    const id = found[which];
    if (screen.left) return;
    if (id === null) return say(which === "next" ? "This is the last slide of the list." : "This is the first slide of the list.");
    const { opacity, outlines, safe, minimap, brightness, contrast, gray, table, list } = screen.state;
    screen.go({ ...newState(id), opacity, outlines, safe, minimap, brightness, contrast, gray, table: table && { ...table, from: 0 }, list });
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
  }
}

/** The way back to the list, and to its neighbors. @param {Screen} screen */
export function buildNeighbors(screen) {
  const button = (/** @type {string} */ text, /** @type {string} */ label, /** @type {"previous" | "next"} */ which) =>
    h("button", { type: "button", className: "small", "aria-label": label, title: label, onclick: () => void goToNeighbor(screen, which) }, text);
  const back = (/** @type {Event} */ event) => {
    const { reviewing } = screen;
    if (!reviewing?.unsaved) return;
    event.preventDefault();
    void reviewing.attempt(async () => reviewing.refuseUnsaved());
  };
  return h("nav", { className: "line", "aria-label": "Slides" },
    h("a", { href: writeState({ ...newState(), list: screen.state.list }) || "#", className: "back", onclick: back }, "‹ All slides"),
    button("‹", "Previous slide (page up)", "previous"), button("›", "Next slide (page down)", "next"));
}
