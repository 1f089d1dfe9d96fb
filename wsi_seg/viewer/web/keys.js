// The keyboard, and the dialog that explains it.

import { h } from "./dom.js";

/** @typedef {import("./screen.js").SlideScreen} Screen */

const STEP = 0.15; // of the view's width

/** @type {[string[], string, (screen: Screen) => void][]} */
const KEYS = [
  [["ArrowLeft"], "← → ↑ ↓  move", (s) => pan(s, -STEP, 0)],
  [["ArrowRight"], "", (s) => pan(s, STEP, 0)],
  [["ArrowUp"], "", (s) => pan(s, 0, -STEP)],
  [["ArrowDown"], "", (s) => pan(s, 0, STEP)],
  [["+", "="], "+  zoom in", (s) => zoom(s, 1.4)],
  [["-", "_"], "−  zoom out", (s) => zoom(s, 1 / 1.4)],
  [["0"], "0  show all", (s) => s.leader.home()],
  [["l"], "l  layers on and off", (s) => s.toggleLayers()],
  [["o"], "o  outlines on and off", (s) => s.update({ outlines: !s.state.outlines })],
  [["i"], "i  what lies in the middle of the view", (s) => void s.leader.tellMiddle()],
  [["?"], "?  this help", (s) => s.help.showModal()],
];

/** @param {Screen} screen @param {number} x @param {number} y */
function pan({ leader }, x, y) {
  const width = leader.viewer.viewport.getBounds().width;
  leader.viewer.viewport.panBy(new OpenSeadragon.Point(x * width, y * width)).applyConstraints();
}

/** @param {Screen} screen @param {number} factor */
function zoom({ leader }, factor) {
  leader.viewer.viewport.zoomBy(factor).applyConstraints();
}

/**
 * Listen until the returned function is called.
 * @param {Screen} screen
 * @returns {() => void}
 */
export function listen(screen) {
  const onKey = (/** @type {KeyboardEvent} */ event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const { target } = event;
    if (target instanceof HTMLSelectElement) return;
    if (target instanceof HTMLInputElement && target.type === "range" && event.key.startsWith("Arrow")) return;
    const found = KEYS.find(([keys]) => keys.includes(event.key));
    if (!found) return;
    event.preventDefault();
    event.stopPropagation();
    found[2](screen);
  };
  document.addEventListener("keydown", onKey, { capture: true });
  return () => document.removeEventListener("keydown", onKey, { capture: true });
}

export function helpDialog() {
  const lines = KEYS.map(([, text]) => text).filter(Boolean);
  const rows = lines.map((text) => text.split("  ")).flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)]);
  const dialog = h("dialog", { className: "help", "aria-label": "Keys" }, h("h2", {}, "Keys and gestures"), h("dl", {}, ...rows,
    h("dt", {}, "wheel, pinch"), h("dd", {}, "zoom"), h("dt", {}, "drag"), h("dd", {}, "move"),
    h("dt", {}, "click, tap"), h("dd", {}, "zoom to a region")),
    h("button", { type: "button", onclick: () => dialog.close() }, "Close"));
  return dialog;
}
