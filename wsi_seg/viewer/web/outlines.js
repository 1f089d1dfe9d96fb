// The outlines over one slide: a canvas that moves with the slide at once and is drawn again by a worker.

import { debounce } from "./dom.js";
import { enlarged } from "./geometry.js";
import { fitCanvas } from "./turn.js";

/** @typedef {import("./geometry.js").View} View */
/** @typedef {import("./outlines_worker.js").Order} Order */
/** @typedef {import("./outlines_worker.js").Found} Found */
/** @typedef {Pick<Order, "sources" | "selected" | "marked">} Content */

const REST_MS = 50; // a view that has not changed for so long is drawn exactly
const MOVING_MS = 150; // while it moves, a picture comes so often: between them the last one is moved along
const MARGIN = 0.15; // of the view, on each side: what comes into sight until the next picture is there

export class Outlines {
  /**
   * @param {HTMLElement} parent
   * @param {[number, number]} size of the slide, l0
   * @param {(text: string) => void} onProblem
   */
  constructor(parent, size, onProblem) {
    this.size = size;
    this.onProblem = onProblem;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "outlines";
    this.canvas.setAttribute("aria-hidden", "true");
    parent.append(this.canvas);
    this.worker = new Worker(new URL("outlines_worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = (event) => this.receive(event.data);
    /** @type {View | null} */
    this.view = null;
    /** @type {Content} */
    this.content = { sources: [], selected: null, marked: null };
    /** @type {{bitmap: ImageBitmap, view: View} | null} */
    this.picture = null;
    this.ordered = ""; // what the last picture was ordered for
    this.waiting = false;
    this.orderedAt = 0;
    this.orderAtRest = debounce(REST_MS, () => this.order());
    /** Whether what is seen is all there is to see; tests and pictures wait for it. */
    this.complete = false;
    this.count = 0;
    /** @type {Map<number, (found: Found | null) => void>} */
    this.asked = new Map();
    this.number = 0;
  }

  /** @param {Content} content */
  setContent(content) {
    this.content = content;
    if (this.view) this.draw(this.view);
  }

  /**
   * Draw for a view: what is at hand now, and exactly as soon as the worker has it.
   * @param {View} view
   */
  draw(view) {
    this.view = view;
    const ratio = window.devicePixelRatio || 1;
    fitCanvas(this.canvas, view, ratio);
    const context = this.canvas.getContext("2d");
    if (!context) return;
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.picture) {
      const { bitmap, view: from } = this.picture, share = from.scale / view.scale;
      const x = ((from.x - view.x) / view.scale) * ratio, y = ((from.y - view.y) / view.scale) * ratio;
      // At the same scale lines stay sharp on whole pixels; the next picture is exact again.
      if (Math.abs(share - 1) < 1e-6) context.drawImage(bitmap, Math.round(x), Math.round(y));
      else context.drawImage(bitmap, x, y, bitmap.width * share, bitmap.height * share);
    }
    if (this.key() === this.ordered) return;
    this.complete = false;
    if (performance.now() - this.orderedAt > MOVING_MS) this.order();
    else this.orderAtRest();
  }

  /** What the last picture has to be of. */
  key() {
    return JSON.stringify([this.view, this.content, window.devicePixelRatio]);
  }

  order() {
    const key = this.key();
    if (!this.view || this.waiting || key === this.ordered) return;
    this.ordered = key;
    this.orderedAt = performance.now();
    this.waiting = true;
    /** @type {Order} */
    const order = { view: enlarged(this.view, MARGIN), ratio: window.devicePixelRatio || 1, size: this.size, ...this.content };
    this.worker.postMessage({ type: "draw", order });
  }

  /** @param {import("./outlines_worker.js").FromWorker} message */
  receive(message) {
    if (message.type === "picture") {
      this.picture?.bitmap.close();
      this.picture = message;
      this.waiting = false;
      this.count = message.count;
      this.complete = message.complete;
      if (this.view) this.draw(this.view);
    } else if (message.type === "loaded") {
      this.ordered = "";
      this.order();
    } else if (message.type === "found") {
      this.asked.get(message.number)?.(message.found);
      this.asked.delete(message.number);
    } else this.onProblem(message.text);
  }

  /**
   * Return what is drawn around a point.
   * @param {number} x l0
   * @param {number} y l0
   * @returns {Promise<Found | null>}
   */
  find(x, y) {
    const number = ++this.number;
    return new Promise((resolve) => {
      this.asked.set(number, resolve);
      this.worker.postMessage({ type: "find", x, y, number });
    });
  }

  close() {
    this.worker.terminate();
    this.picture?.bitmap.close();
    this.canvas.remove();
  }
}
