// Ruler and area tool over the slide: by mouse, or by keys in the middle of the view. Nothing of it is stored.

import { h, say } from "./dom.js";
import { areaText, lengthText } from "./measuring.js";
import { screenSize } from "./turn.js";

/** @typedef {import("./screen.js").SlideScreen} Screen */
/** @typedef {import("./pane.js").Pane} Pane */
/** @typedef {"ruler" | "area"} Tool */
/** @typedef {[number, number]} Point l0 */
/** @typedef {{tool: Tool, points: Point[]}} Measurement */
/** @typedef {{pane: Pane, canvas: HTMLCanvasElement, surface: HTMLElement}} Layer */

const COLOR = "#0b3d91", CASING = "#ffffff", INK = "#1d1b20";
const DRAGGED = 4; // CSS pixels from which a press is a drag
const STEP = 3; // CSS pixels between two points of a line drawn by hand

export class Measure {
  /** @param {Screen} screen */
  constructor(screen) {
    this.screen = screen;
    /** @type {Tool | null} */
    this.tool = null;
    /** @type {Measurement[]} */
    this.done = [];
    /** @type {Point[]} */
    this.draft = [];
    /** @type {Point | null} where the next point would be */
    this.next = null;
    /** @type {Point | null} CSS pixels where the button went down */
    this.pressed = null;
    this.dragging = false;
    /** @type {Layer[]} */
    this.layers = [];
  }

  /** @param {Pane} pane */
  attach(pane) {
    const canvas = h("canvas", { className: "outlines measures", "aria-hidden": "true" }), surface = h("div", { className: "surface", hidden: true });
    pane.viewer.canvas.append(canvas, surface);
    const layer = { pane, canvas, surface };
    this.layers.push(layer);
    surface.addEventListener("pointerdown", (event) => this.down(layer, event));
    surface.addEventListener("pointermove", (event) => this.move(layer, event));
    surface.addEventListener("pointerup", (event) => this.up(layer, event));
    surface.addEventListener("pointercancel", () => this.drop());
    surface.addEventListener("dblclick", (event) => { event.stopPropagation(); this.finish(); });
    pane.viewer.addHandler("update-viewport", () => this.drawOne(layer));
  }

  /** @param {Tool} tool off where it is on */
  use(tool) {
    const now = this.tool === tool ? null : tool;
    if (now && this.screen.reviewing?.tools.tool) this.screen.reviewing.use(this.screen.reviewing.tools.tool);
    this.tool = now;
    for (const { surface } of this.layers) surface.hidden = now === null;
    this.drop();
    this.screen.toolbar.sync(this.screen.state);
    if (now) say(now === "ruler" ? "Ruler: drag, or click both ends. Esc ends." : "Area: click corners or draw around; Enter or a double click closes. Esc ends.");
  }

  /** Drop what is being drawn; without such, end the tool. */
  escape() {
    if (this.draft.length) this.drop();
    else if (this.tool) this.use(this.tool);
  }

  drop() {
    this.draft = [];
    this.next = this.pressed = null;
    this.dragging = false;
    this.draw();
  }

  /** Take back the last point, else the last measurement. */
  removeLast() {
    if (this.draft.length) this.draft.pop();
    else this.done.pop();
    this.next = null;
    this.draw();
  }

  clear() {
    this.done = [];
    this.drop();
    this.screen.toolbar.sync(this.screen.state);
  }

  /** A point in the middle of the view, for those who measure by keys. */
  addMiddle() {
    const [x, y] = this.screen.leader.at();
    this.add([x, y]);
  }

  /** @param {Point} l0 */
  add(l0) {
    const last = this.draft.at(-1);
    if (!last || last[0] !== l0[0] || last[1] !== l0[1]) this.draft.push(l0);
    this.next = null;
    if (this.tool === "ruler" && this.draft.length === 2) this.finish();
    else this.draw();
  }

  /** Close what is being drawn and say how large it is; return whether it was. */
  finish() {
    const { tool, draft } = this;
    if (!tool || draft.length < (tool === "ruler" ? 2 : 3)) return false;
    this.done.push({ tool, points: draft });
    say(`${tool === "ruler" ? "Length" : "Area"} ${this.text(tool, draft)}`);
    this.drop();
    this.screen.toolbar.sync(this.screen.state);
    return true;
  }

  /** @param {Tool} tool @param {Point[]} points */
  text(tool, points) {
    const { mpp } = this.screen.slide;
    return tool === "ruler" ? lengthText(points, mpp) : areaText(points, mpp);
  }

  /** @param {Layer} layer @param {MouseEvent} event @returns {Point} CSS pixels */
  css({ surface }, event) {
    const box = surface.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  /** @param {Layer} layer @param {PointerEvent} event */
  down(layer, event) {
    if (event.button !== 0) return; // the middle button moves the slide
    event.stopPropagation();
    layer.surface.setPointerCapture(event.pointerId);
    this.pressed = this.css(layer, event);
    this.add(layer.pane.toL0(this.pressed));
  }

  /** @param {Layer} layer @param {PointerEvent} event */
  move(layer, event) {
    if (!this.draft.length) return;
    const css = this.css(layer, event), l0 = layer.pane.toL0(css);
    if (this.pressed) {
      event.stopPropagation();
      this.dragging ||= Math.hypot(css[0] - this.pressed[0], css[1] - this.pressed[1]) > DRAGGED;
      const last = layer.pane.toCss(this.draft[this.draft.length - 1]);
      if (this.tool === "area" && this.dragging && Math.hypot(css[0] - last[0], css[1] - last[1]) > STEP) this.draft.push(l0);
    }
    this.next = l0;
    this.draw();
  }

  /** @param {Layer} layer @param {PointerEvent} event */
  up(layer, event) {
    if (!this.pressed) return;
    event.stopPropagation();
    const dragged = this.dragging;
    this.pressed = null;
    this.dragging = false;
    if (!dragged) return;
    if (this.tool === "ruler") this.add(layer.pane.toL0(this.css(layer, event)));
    else this.finish();
  }

  draw() {
    this.layers.forEach((layer) => this.drawOne(layer));
  }

  /** @param {Layer} layer */
  drawOne({ pane, canvas }) {
    if (this.screen.closed || !pane.viewer.isOpen()) return;
    canvas.hidden = !this.done.length && !this.tool;
    if (canvas.hidden) return;
    const [width, height] = screenSize(pane.view()), ratio = window.devicePixelRatio || 1;
    const size = { width: Math.round(width * ratio), height: Math.round(height * ratio) };
    if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
    const context = canvas.getContext("2d");
    if (!context) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    for (const one of this.done) this.trace(context, pane, one, true);
    if (this.tool && this.draft.length) this.trace(context, pane, { tool: this.tool, points: this.next ? [...this.draft, this.next] : this.draft }, false);
    if (this.tool) cross(context, width / 2, height / 2);
  }

  /** @param {CanvasRenderingContext2D} context @param {Pane} pane @param {Measurement} one @param {boolean} closed */
  trace(context, pane, { tool, points }, closed) {
    const places = points.map((l0) => pane.toCss(l0));
    context.beginPath();
    places.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (closed && tool === "area") context.closePath();
    stroke(context);
    for (const [x, y] of tool === "ruler" ? places : places.slice(0, closed ? 0 : 1)) {
      context.beginPath();
      context.arc(x, y, 4, 0, 2 * Math.PI);
      stroke(context);
    }
    if (places.length < 2) return;
    const middle = [0, 1].map((axis) => places.reduce((sum, place) => sum + place[axis], 0) / places.length);
    label(context, this.text(tool, points), middle[0], middle[1]);
  }
}

/** A line with a white casing, to be seen on any stain. @param {CanvasRenderingContext2D} context */
function stroke(context) {
  for (const [style, width] of /** @type {[string, number][]} */ ([[CASING, 4], [COLOR, 2]])) Object.assign(context, { strokeStyle: style, lineWidth: width }).stroke();
}

/** @param {CanvasRenderingContext2D} context @param {string} text @param {number} x @param {number} y its middle */
function label(context, text, x, y) {
  Object.assign(context, { font: "600 13px system-ui, sans-serif", textAlign: "center", textBaseline: "middle" });
  const width = context.measureText(text).width + 12;
  context.fillStyle = CASING;
  context.fillRect(x - width / 2, y - 11, width, 22);
  context.strokeStyle = COLOR;
  context.lineWidth = 1;
  context.strokeRect(x - width / 2, y - 11, width, 22);
  context.fillStyle = INK;
  context.fillText(text, x, y + 0.5);
}

/** Mark the middle of the view, where the space bar measures. @param {CanvasRenderingContext2D} context @param {number} x @param {number} y */
function cross(context, x, y) {
  context.beginPath();
  for (const [dx, dy] of [[8, 0], [0, 8]]) {
    context.moveTo(x - dx, y - dy);
    context.lineTo(x + dx, y + dy);
  }
  stroke(context);
}
