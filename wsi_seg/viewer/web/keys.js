// The keyboard, and the dialog that explains it.

import { h, say } from "./dom.js";
import { stepPower } from "./magnification.js";
import { goToNeighbor } from "./neighbors.js";
import { ROW_KEYS } from "./region_table.js";
import { TOOLS } from "./review_panel.js";
import { moveOnSlide } from "./turn.js";

/** @typedef {import("./screen.js").SlideScreen} Screen */
/** @typedef {import("./review_screen.js").ReviewScreen} ReviewScreen */

const STEP = 0.15; // of the view's width

/** @type {[string[], string, (screen: Screen, key: string) => void][]} */
const KEYS = [
  [["ArrowLeft"], "← → ↑ ↓  move", (s) => pan(s, -STEP, 0)],
  [["ArrowRight"], "", (s) => pan(s, STEP, 0)],
  [["ArrowUp"], "", (s) => pan(s, 0, -STEP)],
  [["ArrowDown"], "", (s) => pan(s, 0, STEP)],
  [["+", "="], "+  zoom in", (s) => zoom(s, 1.4)],
  [["-", "_"], "−  zoom out", (s) => zoom(s, 1 / 1.4)],
  [["0"], "0  show all", (s) => s.leader.home()],
  [[",", "."], ", .  next magnification below, above", (s, key) => stepPower(s, key === "," ? -1 : 1)],
  [["r"], "r, R  turn clockwise, counterclockwise", (s) => s.turnBy(90)],
  [["R"], "", (s) => s.turnBy(-90)],
  [["z"], "z  turn upright", (s) => s.turnBy(-s.state.turn)],
  [["q"], "q, Q  ruler, area: space sets a point in the middle, Enter closes, backspace takes back, Esc ends", (s) => s.measure.use("ruler")],
  [["Q"], "", (s) => s.measure.use("area")],
  [["h"], "h  minimap on and off", (s) => s.update({ minimap: !s.state.minimap })],
  [["k"], "k  magnification and place of the pointer, or of the middle", (s) => say(s.toolbar.place())],
  [["l"], "l  layers on and off", (s) => s.toggleLayers()],
  [["o"], "o  outlines on and off", (s) => s.update({ outlines: !s.state.outlines })],
  [["i"], "i  what lies in the middle of the view", (s) => void s.leader.tellMiddle()],
  [["T"], "T  table of regions on and off", (s) => s.table.toggle()],
  [["N"], "N, P  next, previous region of the table", (s) => void s.table.step("next")],
  [["P"], "", (s) => void s.table.step("previous")],
  [["PageUp"], "page up, page down  previous, next slide of the list", (s) => void goToNeighbor(s, "previous")],
  [["PageDown"], "", (s) => void goToNeighbor(s, "next")],
  [["?"], "?  this help", (s) => s.help.showModal()],
];

/** @type {Record<string, (measure: import("./measure.js").Measure) => void>} while something is measured */
const MEASURE_KEYS = {
  " ": (measure) => measure.addMiddle(), Enter: (measure) => measure.finish(), Backspace: (measure) => measure.removeLast(), Escape: (measure) => measure.escape(),
};

/** @type {[string[], string, (review: ReviewScreen) => void][]} only where the server keeps reviews */
const REVIEW_KEYS = [
  [["n"], "n, p  next, previous region in the queue", (r) => void r.next(1)],
  [["p"], "", (r) => void r.next(-1)],
  [["t"], "t  select the region in the middle of the view", (r) => { const [x, y] = r.pane.at(); void r.attempt(() => r.selectAt([x, y])); }],
  [["a"], "a, x  accept, reject", (r) => void r.give("accepted")],
  [["x"], "", (r) => void r.give("rejected")],
  [["1", "2", "3", "4", "5", "6", "7", "8", "9"], "1 – 9  class of the region, or of what is drawn", () => undefined],
  [["c"], "c  comment", () => document.getElementById("comment")?.focus()],
  [["u"], "u, y  undo, redo", (r) => r.undo()],
  [["y"], "", (r) => r.redo()],
  [["Delete"], "Delete  take back your verdict on the region, or the reviewed area in the middle", (r) => void r.takeBack()],
  ...TOOLS.map(([tool, name, key]) => /** @type {[string[], string, (review: ReviewScreen) => void]} */ ([[key], `${key}  ${name.toLowerCase()}`, (r) => r.use(tool)])),
  [[" "], "space  draw in the middle of the view: a corner, a dot of the brush", (r) => r.tools.addMiddle()],
  [["Backspace"], "backspace  take the last corner back", (r) => r.tools.removePoint()],
  [["Enter"], "Enter  close what is drawn, then save it", (r) => r.save()],
  [["Escape"], "Escape  drop what is drawn, and the selection", (r) => r.clear()],
  [["m"], "m  merge the region in the middle into the selected one", (r) => r.merge()],
  [["g"], "g  all in sight is reviewed", (r) => r.markView()],
];

/** @param {Screen} screen @param {number} x @param {number} y */
function pan({ leader }, x, y) {
  const { width } = leader.viewer.viewport.getBoundsNoRotate(), [right, down] = moveOnSlide(leader.view().turn, [x * width, y * width]);
  leader.viewer.viewport.panBy(new OpenSeadragon.Point(right, down)).applyConstraints();
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
    if (target instanceof HTMLInputElement && ["text", "number"].includes(target.type)) {
      if (event.key === "Enter" || event.key === "Escape") target.blur();
      return;
    }
    if (target instanceof HTMLInputElement && target.type === "range" && event.key.startsWith("Arrow")) return;
    if (target instanceof Element && target.closest("tbody") && ROW_KEYS.includes(event.key)) return; // of the table
    const act = actionOf(screen, event.key, target instanceof HTMLButtonElement || target instanceof HTMLInputElement || target instanceof HTMLAnchorElement);
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  };
  document.addEventListener("keydown", onKey, { capture: true });
  return () => document.removeEventListener("keydown", onKey, { capture: true });
}

/**
 * Return what a key does; null where that is nothing, or the business of the focused control.
 * @param {Screen} screen
 * @param {string} key
 * @param {boolean} onControl a button, box or link has the focus, which Enter and the space bar press
 * @returns {(() => void) | null}
 */
function actionOf(screen, key, onControl) {
  const measuring = screen.measure.tool && MEASURE_KEYS[key];
  if (measuring && !(onControl && (key === "Enter" || key === " "))) return () => measuring(screen.measure);
  const found = KEYS.find(([keys]) => keys.includes(key));
  if (found) return () => found[2](screen, key);
  const { reviewing } = screen;
  if (!reviewing || (onControl && (key === "Enter" || key === " "))) return null;
  if (/^[1-9]$/.test(key)) return () => reviewing.label(Number(key) - 1);
  const other = REVIEW_KEYS.find(([keys]) => keys.includes(key));
  return other ? () => other[2](reviewing) : null;
}

/** @param {boolean} review whether the server keeps reviews */
export function helpDialog(review) {
  const lines = [...KEYS, ...(review ? REVIEW_KEYS : [])].map(([, text]) => text).filter(Boolean);
  const rows = lines.map((text) => text.split("  ")).flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)]);
  const dialog = h("dialog", { className: "help", "aria-label": "Keys" }, h("h2", {}, "Keys and gestures"), h("dl", {}, ...rows,
    h("dt", {}, "wheel, pinch"), h("dd", {}, "zoom"), h("dt", {}, "drag"), h("dd", {}, "move"),
    h("dt", {}, review ? "double click" : "click, tap"), h("dd", {}, "zoom to a region"),
    ...(review ? [h("dt", {}, "click, tap"), h("dd", {}, "select a region")] : [])),
    h("button", { type: "button", onclick: () => dialog.close() }, "Close"));
  return dialog;
}
