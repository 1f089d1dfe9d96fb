// From the address to what is on the screen.

import { api, slidePath } from "./api.js";
import { h } from "./dom.js";
import { SlideScreen } from "./screen.js";
import { showSlides } from "./slides.js";
import { readState, writeState } from "./state.js";

/** @typedef {import("./api.js").Slide} Slide */

const root = /** @type {HTMLElement} */ (document.getElementById("app"));
// OpenSeadragon would add an inline style, which the content security policy forbids, unless it finds this
// mark; what the style says stands in viewer.css.
const mark = document.createElementNS("urn:wsi-seg", "style");
mark.setAttribute("data-openseadragon-mobile-css", "");
document.head.append(mark);

let leave = () => {};
let turn = 0;

/** Show what the address says. */
async function route() {
  const mine = ++turn;
  leave();
  leave = () => {};
  const state = readState(location.hash);
  try {
    if (!state.slide) {
      const stop = await showSlides(root, state, await api(""));
      if (mine === turn) leave = stop;
      else stop();
      return;
    }
    /** @type {[Slide, import("./api.js").About]} */
    const [slide, about] = await Promise.all([api(slidePath(state.slide)), api("")]);
    /** @type {Slide | null} */
    const other = state.other ? await otherSlide(state.slide, state.other) : null;
    if (mine !== turn) return;
    const screen = new SlideScreen(root, state, { slide, other, about }, (next) => {
      if (writeState(next) !== location.hash) history.pushState(null, "", writeState(next));
      void route();
    });
    leave = () => screen.close();
    Object.assign(window, { wsiSegScreen: screen }); // for tests and scripts
  } catch (error) {
    if (mine !== turn) return;
    root.replaceChildren(h("main", { className: "list" }, h("h1", {}, "Cannot show this"),
      h("p", { role: "alert" }, error instanceof Error ? error.message : String(error)), h("p", {}, h("a", { href: "#" }, "All slides"))));
  }
}

/**
 * Return the slide to compare with; the server refuses runs of different slides.
 * @param {string} id
 * @param {string} other
 * @returns {Promise<Slide>}
 */
async function otherSlide(id, other) {
  await api(`compare?${new URLSearchParams({ a: id, b: other })}`);
  return api(slidePath(other));
}

if (new URLSearchParams(location.search).has("token")) history.replaceState(null, "", location.pathname + location.hash); // it is in a cookie now
addEventListener("hashchange", () => void route());
void route();
