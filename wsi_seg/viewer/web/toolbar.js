// The tools over the slide: zoom, magnification, rotation, minimap; and the place of the pointer.

import { h } from "./dom.js";
import { formatPlace } from "./measuring.js";
import { powerButtons, powerText } from "./magnification.js";

/** @typedef {import("./screen.js").SlideScreen} Screen */
/** @typedef {import("./state.js").State} State */

export class Toolbar {
  /** @param {Screen} screen */
  constructor(screen) {
    this.screen = screen;
    this.power = powerButtons(screen);
    this.where = h("p", { className: "where", hidden: true });
    /** @type {[number, number] | null} */
    this.pointer = null;
    const zoom = (/** @type {number} */ factor) => () => screen.leader.viewer.viewport.zoomBy(factor).applyConstraints();
    this.upright = button("0°", "Turn upright (z)", () => screen.turnBy(-screen.state.turn));
    const { measure } = screen;
    this.ruler = button("Ruler", "Ruler (q)", () => measure.use("ruler"));
    this.area = button("Area", "Area (Q)", () => measure.use("area"));
    this.clear = button("✕", "Remove all measurements", () => measure.clear());
    this.minimap = button("▣", "Minimap (h)", () => screen.update({ minimap: !screen.state.minimap }));
    this.bar = h("div", { className: "toolbar", role: "toolbar", "aria-label": "Tools" },
      group("Zoom", button("+", "Zoom in (+)", zoom(1.6)), button("−", "Zoom out (−)", zoom(1 / 1.6)), button("⤢", "Show all (0)", () => screen.leader.home())),
      this.power.element,
      group("Rotation", button("↺", "Turn counterclockwise (R)", () => screen.turnBy(-90)), this.upright, button("↻", "Turn clockwise (r)", () => screen.turnBy(90))),
      group("Measure", this.ruler, this.area, this.clear), group("View", this.minimap));
    this.element = h("div", {}, this.bar, this.where);
  }

  /** @param {State} state */
  sync({ turn, minimap }) {
    this.upright.textContent = `${turn}°`;
    this.upright.setAttribute("aria-label", turn ? `Turned by ${turn}°: turn upright (z)` : "Upright: nothing to turn back (z)");
    const { tool, done } = this.screen.measure;
    this.ruler.setAttribute("aria-pressed", String(tool === "ruler"));
    this.area.setAttribute("aria-pressed", String(tool === "area"));
    this.clear.hidden = done.length === 0;
    this.minimap.setAttribute("aria-pressed", String(minimap));
    for (const pane of this.screen.panes) pane.element.classList.toggle("nominimap", !minimap);
  }

  /** Another place or scale is shown. */
  syncView() {
    this.power.sync();
  }

  /** @param {[number, number] | null} l0 where the pointer is */
  pointAt(l0) {
    this.pointer = l0;
    this.where.hidden = l0 === null;
    if (l0) this.where.textContent = formatPlace(l0, this.screen.slide.mpp);
  }

  /** Magnification and place in words, of the pointer or, without one, of the middle. */
  place() {
    const { leader, slide } = this.screen, [x, y, scale] = leader.at();
    const at = this.pointer ? `pointer at ${formatPlace(this.pointer, slide.mpp)}` : `middle at ${formatPlace([x, y], slide.mpp)}`;
    return `${powerText(slide.mpp, scale)}, ${at}`;
  }
}

/** @param {string} label @param {...HTMLElement} children */
export function group(label, ...children) {
  return h("div", { className: "tools", role: "group", "aria-label": label }, ...children);
}

/** @param {string} text @param {string} label with the key @param {() => void} onclick */
export function button(text, label, onclick) {
  return h("button", { type: "button", "aria-label": label, title: label, className: text.length === 1 ? "sign" : null, onclick }, text);
}
