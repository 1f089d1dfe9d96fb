// The outlines over one slide: a picture that the browser moves with the slide at once, and a worker draws again.

import { debounce } from "./dom.js";
import { enlarged } from "./geometry.js";
import { style, turnTransform } from "./turn.js";

/** @typedef {import("./geometry.js").View} View */
/** @typedef {import("./outlines_worker.js").Order} Order */
/** @typedef {import("./outlines_worker.js").Found} Found */
/** @typedef {Pick<Order, "sources" | "selected" | "marked">} Content */

const REST_MS = 50; // a view that has not changed for so long is drawn exactly
const MOVING_MS = 150; // while it moves, a picture is ordered so often: between them the last one is moved along
const BREATH = 2; // times what the last picture took: very many outlines leave the processor half of its time
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
    /** @type {View | null} what the canvas shows; null: nothing yet */
    this.pictured = null;
    this.ordered = ""; // what the last picture was ordered for
    this.waiting = false;
    this.orderedAt = 0;
    this.tookMs = 0; // for the last picture
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
    this.canvas.hidden = !this.pictured || !this.content.sources.length;
    if (!this.content.sources.length) return this.rest();
    if (this.pictured) this.move(this.pictured, view);
    if (this.key() === this.ordered) return;
    this.complete = false;
    if (performance.now() - this.orderedAt > Math.max(MOVING_MS, BREATH * this.tookMs)) this.order();
    else this.orderAtRest();
  }

  /** Without sources there is nothing to order from the worker. */
  rest() {
    this.pictured = null;
    this.ordered = "";
    this.count = 0;
    this.complete = true;
  }

  /** Put the picture where it belongs in a view. @param {View} from what it is of @param {View} view */
  move(from, view) {
    const { left, top, share } = placeIn(from, view), ratio = window.devicePixelRatio || 1;
    style(this.canvas, {
      width: `${this.canvas.width / ratio}px`, height: `${this.canvas.height / ratio}px`,
      transform: `${turnTransform(view)} translate(${left}px, ${top}px) scale(${share})`,
    });
  }

  /** What the last picture has to be of. */
  key() {
    return JSON.stringify([this.view, this.content, window.devicePixelRatio]);
  }

  order() {
    const key = this.key();
    if (!this.view || !this.content.sources.length || this.waiting || key === this.ordered) return;
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
      const { width, height } = message.bitmap;
      if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
      this.canvas.getContext("bitmaprenderer")?.transferFromImageBitmap(message.bitmap);
      this.pictured = message.view;
      this.waiting = false;
      this.tookMs = performance.now() - this.orderedAt;
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
    if (!this.content.sources.length) return Promise.resolve(null);
    const number = ++this.number;
    return new Promise((resolve) => {
      this.asked.set(number, resolve);
      this.worker.postMessage({ type: "find", x, y, number });
    });
  }

  close() {
    this.worker.terminate();
    this.canvas.remove();
  }
}

/**
 * Return where a picture lies in a view, in CSS pixels of the slide's frame, and how much larger it is shown.
 * @param {View} from what it is of
 * @param {View} view
 */
export function placeIn(from, view) {
  const share = from.scale / view.scale, ratio = window.devicePixelRatio || 1;
  const left = (from.x - view.x) / view.scale, top = (from.y - view.y) / view.scale;
  if (Math.abs(share - 1) > 1e-6) return { left, top, share };
  // At the same scale lines stay sharp on whole device pixels; the next picture is exact again.
  return { left: Math.round(left * ratio) / ratio, top: Math.round(top * ratio) / ratio, share: 1 };
}
