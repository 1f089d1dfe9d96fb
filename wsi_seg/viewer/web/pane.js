// One slide in deep zoom with its colored layers, outlines and scale bar.

import { api, slidePath, title } from "./api.js";
import { lineColor } from "./color.js";
import { debounce, h } from "./dom.js";
import { ExactDrawer } from "./drawer.js";
import { formatArea, formatLength, roundLength } from "./geometry.js";
import { Layer, tileSource } from "./layer.js";
import { applyFilter, canFilter, filterOf } from "./look.js";
import { POWERS, scaleAt } from "./magnification.js";
import { Outlines } from "./outlines.js";
import { colorOf, hasFaults, shownCodes, shownGroups } from "./palette.js";
import { quarter, toScreen, toSlide } from "./turn.js";

/** @typedef {import("./api.js").Slide} Slide */
/** @typedef {import("./state.js").State} State */
/** @typedef {import("./geometry.js").View} View */

const LAYERS = ["tissue", "classes", "probability", "uncertainty", "coverage", "artifacts"]; // from below
const BAR = 140; // longest scale bar in CSS pixels

export class Pane {
  /**
   * @param {HTMLElement} element
   * @param {Slide} slide
   * @param {{onView: (pane: Pane) => void, onHover: (pane: Pane, l0: [number, number] | null) => void,
   *   onProblem: (text: string) => void, onSelect: (pane: Pane, l0: [number, number]) => boolean}} listeners
   *   `onSelect` returns whether a click is for selecting, so that only a double click zooms
   */
  constructor(element, slide, listeners) {
    this.element = element;
    this.slide = slide;
    this.listeners = listeners;
    /** @type {State | null} */
    this.state = null;
    this.looks = 0; // counts up while a run is under way, so that its maps are read again
    this.stage = h("div", { className: "stage" });
    this.bar = h("div", { className: "scalebar", role: "img" });
    this.card = h("div", { className: "card", hidden: true, role: "status" });
    this.cross = h("div", { className: "cross", hidden: true });
    element.append(this.stage, this.bar, this.cross, this.card);
    this.viewer = openViewer(this.stage, slide);
    this.viewer.canvas.setAttribute("aria-label", `${slide.name}: arrow keys move, plus and minus zoom, 0 shows all`);
    this.viewer.canvas.setAttribute("role", "application");
    if (this.viewer.navigator) this.viewer.navigator.canvas.tabIndex = -1; // it does nothing that keys do not
    this.outlines = new Outlines(this.viewer.canvas, slide.size, listeners.onProblem);
    this.layers = new Map(LAYERS.filter((name) => slide.layers.includes(name) && (name !== "coverage" || hasFaults(slide))).map((name) => [name, new Layer(this.viewer, slide)]));
    this.viewer.addHandler("update-viewport", () => this.onDrawn());
    this.viewer.addHandler("animation-start", () => { this.card.hidden = true; });
    this.viewer.addHandler("animation-finish", () => this.hoverSoon());
    this.viewer.addHandler("canvas-click", (event) => void this.onClick(event));
    this.viewer.addHandler("canvas-double-click", (event) => { if (this.selects) void this.zoomTo([event.position.x, event.position.y]); });
    this.filter = ""; // of the slide alone, see look.js
    this.viewer.addHandler("tiled-image-drawn", ({ tiledImage }) => {
      const canvas = this.viewer.drawer.canvas, context = canvas instanceof HTMLCanvasElement && canvas.getContext("2d");
      if (context && this.filter && canFilter() && tiledImage === this.viewer.world.getItemAt(0)) applyFilter(context, this.filter);
    });
    this.selects = false; // clicks select
    this.viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; }); // ours are in keys.js
    /** @type {[number, number] | null} */
    this.pointer = null;
    this.hoverSoon = debounce(30, () => void this.hover());
    this.stage.addEventListener("pointermove", (event) => this.onPointer(event), { capture: true });
    this.stage.addEventListener("pointerleave", () => this.leave());
  }

  /** What is in each address: the version of the results, and the number of this look at a run. */
  get stamp() {
    return new URLSearchParams({ v: this.slide.version, ...(this.looks && { look: String(this.looks) }) });
  }

  /** @returns {View} */
  view() {
    const { viewport } = this.viewer, bounds = viewport.getBoundsNoRotate(true), [full] = this.slide.size;
    const size = viewport.getContainerSize(), scale = (bounds.width * full) / size.x, turn = quarter(viewport.getRotation());
    const [width, height] = turn % 180 ? [size.y, size.x] : [size.x, size.y], center = bounds.getCenter();
    return { x: center.x * full - (width / 2) * scale, y: center.y * full - (height / 2) * scale, scale, width, height, turn };
  }

  /** @returns {[number, number, number]} center in l0 pixels, and l0 pixels per CSS pixel */
  at() {
    const { x, y, scale, width, height } = this.view();
    return [x + (width / 2) * scale, y + (height / 2) * scale, scale];
  }

  /** @param {[number, number, number]} at @param {boolean} [immediately] */
  moveTo([x, y, scale], immediately = false) {
    const [full] = this.slide.size, { width, height } = this.view();
    const w = (width * scale) / full, hh = (height * scale) / full;
    this.viewer.viewport.fitBounds(new OpenSeadragon.Rect(x / full - w / 2, y / full - hh / 2, w, hh), immediately);
  }

  /** Show a box with some room around it. @param {import("./geometry.js").Box} box */
  moveToBox([x0, y0, x1, y1]) {
    const { width, height } = this.view();
    this.moveTo([(x0 + x1) / 2, (y0 + y1) / 2, Math.max((1.6 * (x1 - x0)) / width, (1.6 * (y1 - y0)) / height, this.closest)]);
  }

  /** Up to which scale a view goes to a region by itself, in l0 pixels per CSS pixel: that of the highest power, or 1:1. */
  get closest() {
    const { mpp } = this.slide;
    return mpp ? scaleAt(mpp, POWERS[POWERS.length - 1]) : 1;
  }

  /** @param {boolean} [immediately] */
  home(immediately = false) {
    const [x, y, w, hh] = this.slide.bounds ?? [0, 0, ...this.slide.size];
    const { width, height } = this.view();
    this.moveTo([x + w / 2, y + hh / 2, 1.04 * Math.max(w / width, hh / height)], immediately);
  }

  /** Turn the slide around the middle of the view. @param {number} turn degrees clockwise */
  turnTo(turn) {
    const { viewport, navigator } = this.viewer;
    if (turn === viewport.getRotation()) return;
    viewport.setRotation(turn, true);
    if (navigator) {
      const [width, height] = navigatorSize(this.slide.size);
      navigator.setWidth(turn % 180 ? height : width);
      navigator.setHeight(turn % 180 ? width : height);
    }
    this.card.hidden = true;
  }

  /** @param {State} state */
  show(state) {
    this.state = state;
    this.turnTo(state.turn);
    if (filterOf(state) !== this.filter) this.viewer.forceRedraw();
    this.filter = filterOf(state);
    const { slide } = this, base = `api/${slidePath(slide.id, "/layers/")}`;
    for (const [name, layer] of this.layers) {
      const query = this.stamp;
      if (name === "classes" && state.off.length) query.set("codes", shownCodes(slide, state).join(","));
      if (["classes", "artifacts"].includes(name) && state.safe) query.set("palette", "safe");
      if (name === "probability") query.set("channel", state.channel ?? slide.channels[0]);
      const text = query.toString();
      layer.show((z, x, y) => `${base}${name}/${z}/${x}_${y}.png?${text}`, `${name}?${text}`, state.opacity[name] ?? 0);
    }
    this.outlines.setContent(state.outlines ? this.content(state) : { sources: [], selected: null, marked: null });
  }

  /**
   * Where outlines come from: the run's regions, those of the thresholded group replaced by contours.
   * @param {State} state
   * @param {import("./outlines_worker.js").Order["selected"]} [selected]
   */
  content(state, selected = null) {
    const { slide } = this, live = `${this.stamp}&`;
    const base = new URL(`api/${slidePath(slide.id, "/")}`, document.baseURI).href;
    const of = state.threshold === null ? null : state.of ?? slide.groups.find((group) => group.stored)?.name ?? null;
    const shown = shownGroups(slide, state);
    const colors = Object.fromEntries(shown.filter((g) => g.name !== of).map((g) => [g.name, lineColor(colorOf(g, state.safe))]));
    const sources = [{ url: `${base}regions?${live}`, colors }];
    const group = shown.find((g) => g.name === of);
    if (of !== null && group) {
      const query = new URLSearchParams({ channel: of, threshold: String(state.threshold) });
      sources.push({ url: `${base}contours?${query}&${live}`, colors: { [of]: lineColor(colorOf(group, state.safe)) } });
    }
    return { sources, selected, marked: state.marked };
  }

  onDrawn() {
    const view = this.view();
    this.outlines.draw(view);
    this.drawBar(view);
    this.listeners.onView(this);
  }

  /** @param {View} view */
  drawBar(view) {
    const um = this.slide.mpp ? view.scale * this.slide.mpp[(view.turn ?? 0) % 180 ? 1 : 0] : null;
    this.bar.hidden = um === null;
    if (um === null) return;
    const length = roundLength(BAR * um), text = formatLength(length);
    this.bar.style.width = `${length / um}px`;
    if (this.bar.textContent === text) return;
    this.bar.textContent = text;
    this.bar.setAttribute("aria-label", `Scale bar: ${text}`);
  }

  // --- what lies under the pointer ---

  /** @param {PointerEvent} event */
  onPointer(event) {
    if (event.pointerType === "touch" || event.buttons) return;
    const box = this.stage.getBoundingClientRect();
    this.pointer = [event.clientX - box.left, event.clientY - box.top];
    this.listeners.onHover(this, this.toL0(this.pointer));
    this.hoverSoon();
  }

  leave() {
    this.pointer = null;
    this.listeners.onHover(this, null);
    void this.hover();
  }

  /** @param {[number, number]} css @returns {[number, number]} */
  toL0(css) {
    return toSlide(this.view(), css);
  }

  /** @param {[number, number]} l0 @returns {[number, number]} */
  toCss(l0) {
    return toScreen(this.view(), l0);
  }

  /** @param {[number, number] | null} l0 a place to mark: where the pointer is in the pane next to this one */
  mark(l0) {
    this.cross.hidden = l0 === null;
    if (l0 === null) return;
    const [left, top] = this.toCss(l0);
    this.cross.style.transform = `translate(${left}px, ${top}px)`;
  }

  async hover() {
    const pointer = this.pointer;
    const found = pointer && this.state?.outlines ? await this.outlines.find(...this.toL0(pointer)) : null;
    if (pointer === this.pointer) await this.tell(found, pointer);
  }

  /** What is in the middle of the view, for those without a pointer. */
  async tellMiddle() {
    const [x, y] = this.at();
    await this.tell(await this.outlines.find(x, y), [this.stage.clientWidth / 2, this.stage.clientHeight / 2]);
  }

  /**
   * Show a region's facts next to a place, and draw it heavily.
   * @param {import("./outlines.js").Found | null} found
   * @param {[number, number] | null} css
   */
  async tell(found, css) {
    const stored = found && found.source === 0;
    if (this.state?.outlines) {
      const selected = found && { source: found.source, index: found.index };
      if (JSON.stringify(selected) !== JSON.stringify(this.outlines.content.selected)) this.outlines.setContent(this.content(this.state, selected));
    }
    if (!found || !css) {
      this.card.hidden = true;
      return;
    }
    const lines = stored ? await this.storedFacts(found.index) : this.contourFacts(found);
    if (this.pointer !== css && this.pointer !== null) return; // it has moved on
    const group = this.slide.groups.find((g) => g.name === found.group);
    const swatch = h("span", { className: "swatch" });
    if (group) paint(swatch, colorOf(group, this.state?.safe ?? false));
    this.card.replaceChildren(h("strong", {}, swatch, title(found.group)), ...lines.map((line) => h("span", {}, line)));
    this.card.hidden = false;
    const left = Math.min(css[0] + 14, this.stage.clientWidth - this.card.offsetWidth - 6);
    const below = css[1] + 14 + this.card.offsetHeight < this.stage.clientHeight;
    this.card.style.transform = `translate(${left}px, ${below ? css[1] + 14 : css[1] - this.card.offsetHeight - 8}px)`;
  }

  /** @param {number} index @returns {Promise<string[]>} */
  async storedFacts(index) {
    const facts = await this.facts(index);
    const uncertainty = facts.measurements["Mean uncertainty"];
    return [
      ...(facts.area_um2 === undefined ? [] : [`region area ${formatArea(facts.area_um2)}`]),
      ...(facts.mean_probability === undefined ? [] : [`mean probability ${(100 * facts.mean_probability).toFixed(0)} %`]),
      ...(uncertainty === undefined ? [] : [`mean uncertainty ${(100 * uncertainty).toFixed(0)} %`]),
    ];
  }

  /** @param {number} index @returns {Promise<import("./api.js").RegionFacts>} */
  facts(index) {
    return api(slidePath(this.slide.id, `/regions/${index}`, this.slide.version));
  }

  /** @param {import("./outlines.js").Found} found @returns {string[]} */
  contourFacts(found) {
    const { mpp } = this.slide;
    const size = mpp ? [`region area about ${formatArea(found.area * mpp[0] * mpp[1])}`] : [];
    return [...size, `probability ≥ ${this.state?.threshold}`];
  }

  /** @param {import("openseadragon").CanvasClickEvent} event */
  async onClick(event) {
    const css = /** @type {[number, number]} */ ([event.position.x, event.position.y]);
    if (!event.quick) return;
    this.selects = this.listeners.onSelect(this, this.toL0(css));
    if (!this.selects) await this.zoomTo(css);
  }

  /** Zoom to the region at a place. @param {[number, number]} css */
  async zoomTo(css) {
    if (!this.state?.outlines) return;
    const found = await this.outlines.find(...this.toL0(css));
    if (!found) return;
    const [x0, y0, x1, y1] = found.source === 0 ? (await this.facts(found.index)).bbox : found.bbox;
    const { scale, width, height } = this.view();
    const fit = Math.max((1.5 * (x1 - x0)) / width, (1.5 * (y1 - y0)) / height, this.closest);
    const [x, y] = this.toL0(css);
    // A region that already fills the view: closer to where the click was.
    this.moveTo(fit < scale ? [(x0 + x1) / 2, (y0 + y1) / 2, fit] : [x, y, Math.max(scale / 2, 0.25)]);
  }

  /** Whether slide, layers and outlines are drawn in full. */
  get complete() {
    const world = this.viewer.world;
    const all = Array.from({ length: world.getItemCount() }, (_, i) => world.getItemAt(i));
    const layers = [...this.layers.values()].every((layer) => layer.settled);
    return all.length > 0 && layers && all.every((item) => item.getFullyLoaded()) && this.outlines.complete;
  }

  close() {
    this.outlines.close();
    this.viewer.destroy();
    this.element.replaceChildren();
  }
}

/**
 * Give a swatch the class's color and the border that its outlines have.
 * @param {HTMLElement} swatch
 * @param {string} color
 */
export function paint(swatch, color) {
  swatch.style.backgroundColor = color;
  swatch.style.borderColor = lineColor(color);
}

/** @param {[number, number]} size @returns {[number, number]} of the minimap, CSS pixels */
function navigatorSize([width, height]) {
  return [Math.round(Math.min(150, (120 * width) / height)), Math.round(Math.min(120, (150 * height) / width))];
}

/** @param {HTMLElement} element @param {Slide} slide */
function openViewer(element, slide) {
  const [navigatorWidth, navigatorHeight] = navigatorSize(slide.size);
  return new OpenSeadragon.Viewer({
    element,
    tileSources: [tileSource(slide, (z, x, y) => `api/${slidePath(slide.id, `/tiles/${z}/${x}_${y}.jpg`, slide.version)}`)],
    drawer: ExactDrawer,
    showNavigationControl: false,
    showNavigator: true,
    navigatorAutoFade: false, // it stays
    navigatorPosition: "BOTTOM_RIGHT",
    navigatorWidth: `${navigatorWidth}px`,
    navigatorHeight: `${navigatorHeight}px`,
    navigatorDisplayRegionColor: "#5b2a6f",
    animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0.001 : 0.35,
    springStiffness: 9,
    visibilityRatio: 0.3,
    minZoomImageRatio: 0.5,
    maxZoomPixelRatio: 16,
    // A half, as by default, takes at each power of two the level that is twice too fine: four times the pixels.
    minPixelRatio: 0.51,
    smoothTileEdgesMinZoom: Infinity,
    imageLoaderLimit: 6,
    maxImageCacheCount: 400,
    preserveImageSizeOnResize: true,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false },
    gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: false, pinchRotate: false, flickEnabled: true },
    gestureSettingsPen: { clickToZoom: false, dblClickToZoom: false },
  });
}
