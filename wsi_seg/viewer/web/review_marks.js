// The canvas of a review over one slide: verdicts, what was drawn, reviewed areas, and what is being drawn.

import { viewBox } from "./geometry.js";
import { polygonsOf } from "./review.js";
import { fitCanvas } from "./turn.js";

/** @typedef {import("./geometry.js").View} View */
/** @typedef {import("./review.js").Geometry} Geometry */
/** @typedef {{geometry: Geometry | null, line: number[][], radius: number, corners: boolean}} Draft what is being drawn; l0 */
/** @typedef {{review: import("./review.js").Review, selected: Geometry | null, draft: Draft, hidden: boolean, aims: boolean}} Content `aims`: the middle is marked */

const SIGNS = Object.freeze({ accepted: "✓", rejected: "✕", relabeled: "≠", redrawn: "✎", added: "+" });
const COLORS = Object.freeze({ accepted: "#0b5d3b", rejected: "#9c1c1c", relabeled: "#5b2a6f", redrawn: "#5b2a6f", added: "#5b2a6f" });
const AREA = "#1f3fa8", SELECTED = "#000000", DRAFT = "#b5006a";
const MOST_SIGNS = 500; // in one view; more would hide the slide, and become dots
const DOT = 7; // side of a dot, CSS pixels
const SIGN = 22; // side of a sign's picture, CSS pixels
const CORNER = 4; // half the side of a corner's handle, CSS pixels

export class ReviewMarks {
  /** @param {HTMLElement} parent */
  constructor(parent) {
    this.canvas = document.createElement("canvas");
    this.canvas.className = "outlines marks";
    this.canvas.setAttribute("aria-hidden", "true");
    parent.append(this.canvas);
  }

  /** @param {View} view @param {Content} content */
  draw(view, { review, selected, draft, hidden, aims }) {
    const some = review.areas.length || review.drawn.length || review.verdicts.size;
    this.canvas.hidden = !(some && !hidden) && !selected && !draft.geometry && !draft.line.length && !aims;
    if (this.canvas.hidden) return; // a canvas that is drawn costs each frame, also where nothing is on it
    const ratio = window.devicePixelRatio || 1;
    fitCanvas(this.canvas, view, ratio);
    const context = this.canvas.getContext("2d");
    if (!context) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, view.width, view.height);
    const pen = new Pen(context, view);
    if (!hidden) {
      for (const area of review.areas) pen.outline(area.geometry, AREA, [9, 5]);
      for (const one of [...review.drawn, ...review.verdicts.values()]) {
        if (one.geometry && one.verdict !== "rejected") pen.outline(one.geometry, COLORS[one.verdict], []);
      }
      this.signs(pen, view, review);
    }
    if (selected && !draft.geometry) pen.outline(selected, SELECTED, [6, 4]);
    if (draft.geometry) pen.outline(draft.geometry, DRAFT, []);
    if (draft.geometry && draft.corners) pen.corners(draft.geometry, DRAFT);
    pen.line(draft.line, DRAFT, draft.radius / view.scale);
    if (aims) pen.aim(view.width / 2, view.height / 2);
  }

  /** @param {Pen} pen @param {View} view @param {import("./review.js").Review} review */
  signs(pen, view, review) {
    const [x0, y0, x1, y1] = viewBox(view);
    const seen = [...review.verdicts.values()].filter(({ bbox }) => bbox[0] <= x1 && bbox[2] >= x0 && bbox[1] <= y1 && bbox[3] >= y0
      && Math.max(bbox[2] - bbox[0], bbox[3] - bbox[1]) >= 8 * view.scale);
    for (const { at, verdict, disputed } of seen) {
      if (seen.length > MOST_SIGNS && !disputed) pen.dot(at[0], at[1], COLORS[verdict]);
      else pen.sign(at[0], at[1], disputed ? "?" : SIGNS[verdict], COLORS[verdict]);
    }
  }
}

class Pen {
  /** @param {CanvasRenderingContext2D} context @param {View} view */
  constructor(context, view) {
    this.context = context;
    this.view = view;
  }

  /** @param {number[]} l0 @returns {[number, number]} CSS pixels */
  place([x, y]) {
    return [(x - this.view.x) / this.view.scale, (y - this.view.y) / this.view.scale];
  }

  /** @param {number[][]} points */
  trace(points) {
    points.forEach((point, i) => {
      const [x, y] = this.place(point);
      if (i) this.context.lineTo(x, y);
      else this.context.moveTo(x, y);
    });
  }

  /** A line with a white casing, to be seen on any stain. @param {string} color @param {number[]} dashes */
  stroke(color, dashes) {
    for (const [style, width, pattern] of /** @type {[string, number, number[]][]} */ ([["#ffffff", 4, []], [color, 2, dashes]])) {
      this.context.setLineDash(pattern);
      this.context.strokeStyle = style;
      this.context.lineWidth = width;
      this.context.stroke();
    }
    this.context.setLineDash([]);
  }

  /** @param {Geometry} geometry @param {string} color @param {number[]} dashes */
  outline(geometry, color, dashes) {
    this.context.beginPath();
    for (const ring of polygonsOf(geometry).flat()) this.trace(ring);
    this.stroke(color, dashes);
  }

  /** @param {Geometry} geometry @param {string} color */
  corners(geometry, color) {
    for (const point of polygonsOf(geometry).flat(2)) {
      const [x, y] = this.place(point);
      if (x < -9 || y < -9 || x > this.view.width + 9 || y > this.view.height + 9) continue;
      this.context.fillStyle = "#ffffff";
      this.context.fillRect(x - CORNER - 1, y - CORNER - 1, 2 * CORNER + 2, 2 * CORNER + 2);
      this.context.fillStyle = color;
      this.context.fillRect(x - CORNER, y - CORNER, 2 * CORNER, 2 * CORNER);
    }
  }

  /** @param {number[][]} points @param {string} color @param {number} radius CSS pixels; 0: a thin line */
  line(points, color, radius) {
    if (!points.length) return;
    this.context.beginPath();
    this.trace(points.length > 1 ? points : [points[0], points[0]]);
    if (!radius) return this.stroke(color, []);
    this.context.globalAlpha = 0.35;
    this.context.strokeStyle = color;
    Object.assign(this.context, { lineWidth: 2 * radius, lineCap: "round", lineJoin: "round" });
    this.context.stroke();
    Object.assign(this.context, { globalAlpha: 1, lineCap: "butt", lineJoin: "miter" });
  }

  /** Mark the middle of the view, where the space bar draws. @param {number} left @param {number} top CSS pixels */
  aim(left, top) {
    this.context.beginPath();
    for (const [dx, dy] of [[9, 0], [0, 9]]) {
      this.context.moveTo(left - dx, top - dy);
      this.context.lineTo(left + dx, top + dy);
    }
    this.stroke(DRAFT, []);
  }

  /** @param {number} x @param {number} y l0 @param {string} color */
  dot(x, y, color) {
    const [left, top] = this.place([x, y]).map((css) => Math.round(css - DOT / 2));
    this.context.fillStyle = "#ffffff";
    this.context.fillRect(left, top, DOT, DOT);
    this.context.fillStyle = color;
    this.context.fillRect(left + 1, top + 1, DOT - 2, DOT - 2);
  }

  /** @param {number} x @param {number} y l0 @param {string} text @param {string} color */
  sign(x, y, text, color) {
    const [left, top] = this.place([x, y]), ratio = window.devicePixelRatio || 1;
    const whole = (/** @type {number} */ css) => Math.round((css - SIGN / 2) * ratio) / ratio;
    this.context.drawImage(signPicture(text, color, ratio, this.view.turn ?? 0), whole(left), whole(top), SIGN, SIGN);
  }
}

/** @type {Map<string, HTMLCanvasElement>} */
const pictures = new Map(); // to draw hundreds of them again takes longer than a frame

/** @param {string} text @param {string} color @param {number} ratio device pixels per CSS pixel @param {number} turn of the view in degrees */
function signPicture(text, color, ratio, turn) {
  const key = [text, color, ratio, turn].join(), known = pictures.get(key);
  if (known) return known;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = Math.ceil(SIGN * ratio);
  const context = canvas.getContext("2d");
  if (!context) return canvas;
  context.setTransform(canvas.width / SIGN, 0, 0, canvas.width / SIGN, 0, 0);
  context.translate(SIGN / 2, SIGN / 2);
  context.beginPath();
  context.arc(0, 0, 9, 0, 2 * Math.PI);
  Object.assign(context, { fillStyle: "#ffffff", strokeStyle: color, lineWidth: 2 });
  context.fill();
  context.stroke();
  Object.assign(context, { fillStyle: color, font: "600 12px system-ui, sans-serif", textAlign: "center", textBaseline: "middle" });
  context.rotate((-turn * Math.PI) / 180); // upright on the screen
  context.fillText(text, 0, 0.5);
  pictures.set(key, canvas);
  return canvas;
}
