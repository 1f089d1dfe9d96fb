// A review: what was said of the regions of a slide, and the requests that say more.

import { api, send, slidePath } from "./api.js";

/** @typedef {import("./api.js").Slide} Slide */
/** @typedef {import("./geometry.js").Box} Box */
/** @typedef {number[][][]} Rings rings of one polygon, the outer one first; positions x, y in l0 pixels */
/** @typedef {{type: "Polygon", coordinates: Rings} | {type: "MultiPolygon", coordinates: Rings[]}} Geometry */
/**
 * @typedef {object} Verdict
 * @property {"accepted" | "rejected" | "relabeled" | "redrawn" | "added"} verdict
 * @property {string | null} class_name
 * @property {string} reviewer
 * @property {string} comment
 * @property {string} entry
 * @property {boolean} disputed
 * @property {Geometry | null} geometry of what was drawn
 */
/** @typedef {Verdict & {iou: number, bbox: Box, at: [number, number]}} RegionVerdict of a region of the results; `at` lies in it */
/** @typedef {Verdict & {region: string}} DrawnVerdict of a region that a reviewer has added */
/** @typedef {{entry: string, reviewer: string, geometry: Geometry}} Area */
/** @typedef {{regions: number, reviewed: number, disputed: number, not_carried: number, reviewers: string[]}} Progress */
/** @typedef {{regions: Record<string, RegionVerdict | null>, drawn: DrawnVerdict[], areas: Area[], progress: Progress, notes: string[], count: number, before?: number, entries?: string[]}} Answer `count`: entries of all reviewers; `before`: those before a request */
/** @typedef {{index: number | null, place: number | null, total: number, bbox: Box | null}} Next */
/** @typedef {{index: number} | {region: string}} Target a region of the results, or one that was added */

const NAME = "wsi-seg reviewer"; // where the browser keeps the reviewer's name

export class Review {
  /** @param {Slide} slide @param {() => void} onChange */
  constructor(slide, onChange) {
    this.slide = slide;
    this.onChange = onChange;
    /** @type {Map<number, RegionVerdict>} */
    this.verdicts = new Map();
    /** @type {DrawnVerdict[]} */
    this.drawn = [];
    /** @type {Area[]} */
    this.areas = [];
    /** @type {Progress} */
    this.progress = { regions: 0, reviewed: 0, disputed: 0, not_carried: 0, reviewers: [] };
    /** @type {string[][]} entries of each action, the last one at the end */
    this.done = [];
    /** @type {string[][]} entries that revoke what was undone */
    this.undone = [];
    this.count = -1; // of entries that are shown
    this.reviewer = localStorage.getItem(NAME) ?? "";
  }

  /** @param {string} rest @param {Record<string, string>} [query] */
  path(rest, query = {}) {
    return slidePath(this.slide.id, `/review${rest}?${new URLSearchParams({ v: this.slide.version, ...query })}`);
  }

  async load() {
    const answer = await api(this.path(""));
    this.verdicts.clear();
    this.take(answer);
  }

  /** Show what other reviewers have said meanwhile. */
  async refresh() {
    const { count } = await api(this.path("", { count: String(Math.max(0, this.count)) }));
    if (count !== this.count) await this.load();
  }

  /** @param {Answer} answer */
  take(answer) {
    for (const [index, verdict] of Object.entries(answer.regions)) {
      if (verdict) this.verdicts.set(Number(index), verdict);
      else this.verdicts.delete(Number(index));
    }
    this.drawn = answer.drawn;
    this.areas = answer.areas;
    this.progress = answer.progress;
    this.count = answer.count;
    this.onChange();
  }

  /** @param {string} name */
  setReviewer(name) {
    this.reviewer = name.trim();
    localStorage.setItem(NAME, this.reviewer);
  }

  /**
   * Store verdicts of one action, which are undone together; they are on the server's disk when this returns.
   * @param {...Record<string, unknown>} verdicts
   * @throws {ApiError} the server's one line; those before the one that failed are stored
   */
  async add(...verdicts) {
    /** @type {string[]} */
    const entries = [];
    try {
      for (const verdict of verdicts) entries.push(...((await this.post("", verdict)).entries ?? []));
    } finally {
      if (entries.length) {
        this.done.push(entries);
        this.undone = [];
      }
    }
  }

  /** Take the last action back; return whether there was one. */
  async undo() {
    const last = this.done.at(-1);
    if (!last) return false;
    const answer = await this.post("/undo", { entries: last });
    this.done.pop();
    this.undone.push(answer.entries ?? []);
    return true;
  }

  /** Take entries back, also those from before the page was loaded; an undo brings them back. @param {string[]} entries */
  async takeBack(entries) {
    const answer = await this.post("/undo", { entries });
    this.done.push(answer.entries ?? []);
    this.undone = [];
  }

  /** Do again what was undone last; return whether there was anything. */
  async redo() {
    const last = this.undone.at(-1);
    if (!last) return false;
    const answer = await this.post("/undo", { entries: last });
    this.undone.pop();
    this.done.push(answer.entries ?? []);
    return true;
  }

  /** @param {string} rest @param {Record<string, unknown>} body @returns {Promise<Answer>} */
  async post(rest, body) {
    /** @type {Answer} */
    const answer = await api(this.path(rest), send({ reviewer: this.reviewer, ...body })), seen = this.count;
    this.take(answer);
    if (answer.before !== seen) await this.load(); // others have said something meanwhile
    return answer;
  }

  /**
   * Return what comes next in the queue.
   * @param {{order: string, group: string, all: boolean}} queue
   * @param {number | null} after
   * @param {1 | -1} step
   * @returns {Promise<Next>}
   */
  next({ order, group, all }, after, step) {
    return api(this.path("/next", { order, group, all: all ? "1" : "0", step: String(step), after: after === null ? "" : String(after) }));
  }

  /**
   * Return the whole outline of a region, as it was redrawn if it was.
   * @param {Target} target
   * @returns {Promise<Geometry>}
   */
  async outline(target) {
    const drawn = "index" in target ? this.verdicts.get(target.index) : this.drawn.find((one) => one.region === target.region);
    if (drawn?.geometry) return drawn.geometry;
    if (!("index" in target)) throw new Error("this region is not there any more");
    /** @type {{geometry: Geometry}} */
    const { geometry } = await api(this.path("/outline", { index: String(target.index) }));
    return geometry;
  }

  /**
   * Return the parts that an edit gives; nothing is stored.
   * @param {{action: "add" | "erase" | "split", geometry: Geometry | null, other?: Geometry, line?: number[][], radius?: number}} edit
   * @returns {Promise<Geometry[]>}
   */
  async edit(edit) {
    /** @type {{parts: Geometry[]}} */
    const { parts } = await api(this.path("/edit"), send(edit));
    return parts;
  }
}

/** @param {Geometry} geometry @returns {Rings[]} the polygons of a geometry */
export function polygonsOf(geometry) {
  return geometry.type === "Polygon" ? [geometry.coordinates] : geometry.coordinates;
}

/** @param {Geometry} geometry @returns {Box} */
export function boundsOf(geometry) {
  const outer = polygonsOf(geometry).flatMap(([ring]) => ring);
  const [xs, ys] = [0, 1].map((axis) => outer.map((point) => point[axis]));
  const least = (/** @type {number[]} */ values) => values.reduce((a, b) => Math.min(a, b), Infinity);
  const most = (/** @type {number[]} */ values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
  return [least(xs), least(ys), most(xs), most(ys)];
}

/** @param {Geometry} geometry @param {number} x @param {number} y @returns {boolean} by the even-odd rule */
export function covers(geometry, x, y) {
  let within = false;
  for (const ring of polygonsOf(geometry).flat()) {
    for (let i = 1; i < ring.length; i++) {
      const [[xi, yi], [xj, yj]] = [ring[i], ring[i - 1]];
      if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) within = !within;
    }
  }
  return within;
}
