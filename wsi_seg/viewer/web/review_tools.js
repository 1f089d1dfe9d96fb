// Tools that draw over one slide: polygon, freehand, box, brush, eraser, split and moving corners.
//
// Own code: Annotorious 3.8.10 for OpenSeadragon draws by pixi.js, which needs eval or one more package where a content
// security policy forbids that, as ours does; its script has 687 kB, all of our review 42 kB, and it has no brush, eraser, split
// or merge. What needs areas to be joined or cut is done by the server, with Shapely.

import { boundsOf, polygonsOf } from "./review.js";

/** @typedef {import("./review.js").Geometry} Geometry */
/** @typedef {import("./pane.js").Pane} Pane */
/** @typedef {"polygon" | "freehand" | "box" | "brush" | "eraser" | "split" | "corners"} Tool */
/** @typedef {import("./review_marks.js").Draft} Draft */
/**
 * @typedef {object} Listeners
 * @property {() => void} onDraft the draft has changed and is to be drawn
 * @property {() => void} onMove a corner is about to be moved
 * @property {(action: "add" | "erase" | "split", line: number[][], radius: number) => void} onStroke of brush, eraser or split
 * @property {(geometry: Geometry) => void} onShape a polygon, freehand line or box was closed
 */

const NEAR = 10; // CSS pixels from a corner within which it is taken
const STEP = 2; // CSS pixels between two points of a line
const LEAST = 3; // corners of a polygon
const MOST_POINTS = 4000; // of a line

export class Tools {
  /** @param {Pane} pane @param {Listeners} listeners */
  constructor(pane, listeners) {
    this.pane = pane;
    this.listeners = listeners;
    /** @type {Tool | null} */
    this.tool = null;
    /** @type {Draft} */
    this.draft = emptyDraft();
    this.brush = 24; // radius, CSS pixels
    this.held = false;
    /** @type {number[] | null} the corner that is moved */
    this.corner = null;
    this.surface = document.createElement("div");
    this.surface.className = "surface";
    this.surface.hidden = true;
    pane.viewer.canvas.append(this.surface);
    this.surface.addEventListener("pointerdown", (event) => this.down(event));
    this.surface.addEventListener("pointermove", (event) => this.move(event));
    this.surface.addEventListener("pointerup", (event) => this.up(event));
    this.surface.addEventListener("pointercancel", () => this.drop());
    this.surface.addEventListener("dblclick", (event) => { event.stopPropagation(); this.finish(); });
  }

  /** @param {Tool | null} tool null: the mouse moves the slide again */
  choose(tool) {
    this.tool = tool;
    this.surface.hidden = tool === null;
    this.draft = { ...this.draft, line: [], radius: 0, corners: tool === "corners" };
    this.held = false;
    this.listeners.onDraft();
  }

  /** @param {Geometry | null} geometry the outline that is edited */
  setGeometry(geometry) {
    this.draft = { ...this.draft, geometry, line: [], radius: 0 };
    this.listeners.onDraft();
  }

  /** @param {PointerEvent} event @returns {[number, number]} l0 */
  place(event) {
    const box = this.surface.getBoundingClientRect();
    return this.pane.toL0([event.clientX - box.left, event.clientY - box.top]);
  }

  /** @param {PointerEvent} event */
  down(event) {
    if (event.button !== 0) return; // the middle button moves the slide
    event.stopPropagation();
    this.surface.setPointerCapture(event.pointerId);
    const at = this.place(event);
    this.held = true;
    if (this.tool === "polygon") this.addPoint(at);
    else if (this.tool === "corners") this.corner = this.take(at);
    else this.draft = { ...this.draft, line: [at], radius: this.radius };
    this.listeners.onDraft();
  }

  /** Radius of what is painted, l0 pixels; 0 for thin lines. */
  get radius() {
    return this.tool === "brush" || this.tool === "eraser" ? this.brush * this.pane.view().scale : 0;
  }

  /** @param {PointerEvent} event */
  move(event) {
    if (!this.held) return;
    event.stopPropagation();
    const at = this.place(event), { line } = this.draft;
    if (this.tool === "corners") {
      if (this.corner) [this.corner[0], this.corner[1]] = at;
    } else if (this.tool === "box") this.draft.line = boxLine(line[0], at);
    else if (this.tool !== "polygon" && line.length < MOST_POINTS && distance(line[line.length - 1], at) > STEP * this.pane.view().scale) line.push(at);
    this.listeners.onDraft();
  }

  /** @param {PointerEvent} event */
  up(event) {
    if (!this.held) return;
    event.stopPropagation();
    this.held = false;
    this.corner = null;
    const { line, radius } = this.draft;
    if (this.tool === "box" || this.tool === "freehand" || this.tool === "split") this.finish();
    else if (this.tool === "brush" || this.tool === "eraser") {
      this.draft = { ...this.draft, line: [], radius: 0 };
      this.listeners.onStroke(this.tool === "brush" ? "add" : "erase", line, radius);
    }
    this.listeners.onDraft();
  }

  drop() {
    this.held = false;
    this.draft = { ...this.draft, line: [], radius: 0 };
    this.listeners.onDraft();
  }

  /** @param {[number, number]} at l0 */
  addPoint(at) {
    const last = this.draft.line.at(-1);
    if (!last || distance(last, at) > this.pane.view().scale) this.draft.line.push(at);
    this.listeners.onDraft();
  }

  /** Do in the middle of the view what a click does, for those who draw by keys. */
  addMiddle() {
    const [x, y] = this.pane.at(), { line } = this.draft;
    if (this.tool === "brush" || this.tool === "eraser") this.listeners.onStroke(this.tool === "brush" ? "add" : "erase", [[x, y]], this.radius);
    else if (this.tool === "corners" && this.corner) {
      [this.corner[0], this.corner[1]] = [x, y];
      this.corner = null;
    } else if (this.tool === "corners") this.corner = this.take([x, y]);
    else if (this.tool === "box" && line.length) {
      this.draft.line = boxLine(line[0], [x, y]);
      this.finish();
    } else if (this.tool) this.addPoint([x, y]);
    this.listeners.onDraft();
  }

  /** Take the last corner of a polygon back. */
  removePoint() {
    this.draft.line.pop();
    this.listeners.onDraft();
  }

  /** Close what is drawn; return whether there was anything to close. */
  finish() {
    const { line } = this.draft, least = this.tool === "split" ? 2 : LEAST;
    if (!this.tool || !["polygon", "freehand", "box", "split"].includes(this.tool) || line.length < least) return false;
    this.draft = { ...this.draft, line: [] };
    if (this.tool === "split") this.listeners.onStroke("split", line, 0);
    else this.listeners.onShape({ type: "Polygon", coordinates: [[...line, line[0]]] });
    return true;
  }

  /**
   * Return the corner at a place, or a new one in the edge that passes there; both ends of a ring are one corner.
   * @param {[number, number]} at l0
   * @returns {number[] | null}
   */
  take(at) {
    const { geometry } = this.draft, near = NEAR * this.pane.view().scale;
    if (!geometry) return null;
    const rings = polygonsOf(geometry).flat();
    for (const ring of rings) ring[ring.length - 1] = ring[0];
    const corner = rings.flat().reduce((/** @type {number[] | null} */ best, one) => (distance(one, at) < (best ? distance(best, at) : near) ? one : best), null);
    if (corner) {
      this.listeners.onMove();
      return corner;
    }
    for (const ring of rings) {
      const edge = ring.findIndex((one, i) => i > 0 && toSegment(at, ring[i - 1], one) < near);
      if (edge > 0) {
        this.listeners.onMove();
        ring.splice(edge, 0, [...at]);
        return ring[edge];
      }
    }
    return null;
  }
}

/** @returns {Draft} */
function emptyDraft() {
  return { geometry: null, line: [], radius: 0, corners: false };
}

/** @param {number[]} a @param {number[]} b */
function distance(a, b) {
  return Math.hypot(a[0] - b[0], a[1] - b[1]);
}

/** @param {number[]} at @param {number[]} a @param {number[]} b @returns {number} distance to the line between a and b */
function toSegment(at, a, b) {
  const [dx, dy] = [b[0] - a[0], b[1] - a[1]], length = dx * dx + dy * dy;
  const share = length ? Math.min(1, Math.max(0, ((at[0] - a[0]) * dx + (at[1] - a[1]) * dy) / length)) : 0;
  return distance(at, [a[0] + share * dx, a[1] + share * dy]);
}

/** @param {number[]} from @param {number[]} to @returns {number[][]} the corners of the box between two places */
function boxLine(from, to) {
  const [x0, y0, x1, y1] = boundsOf({ type: "Polygon", coordinates: [[from, to]] });
  return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
}
