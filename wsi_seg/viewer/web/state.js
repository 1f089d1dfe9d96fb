// What is shown, as the fragment of the address: it can be shared and survives a reload.

/**
 * @typedef {object} State
 * @property {string | null} slide id; null: the list
 * @property {string | null} other id of the run that is shown next to it
 * @property {[number, number, number] | null} at center in l0 pixels, and l0 pixels per CSS pixel; null: all of the slide
 * @property {Record<string, number>} opacity of each layer, 0 … 1
 * @property {string | null} channel of the probability layer
 * @property {boolean} outlines
 * @property {number[]} off codes of classes that are hidden
 * @property {number | null} threshold of outlines from the probability; null: regions as the run traced them
 * @property {string | null} of group of these outlines
 * @property {boolean} safe colors that color-blind readers can tell apart
 * @property {number} turn degrees clockwise by which the slide is turned: 0, 90, 180 or 270
 * @property {boolean} minimap
 * @property {number} brightness of the slide, percent
 * @property {number} contrast of the slide, percent
 * @property {boolean} gray the slide without color
 * @property {RegionQuery | null} table of regions; null: it is not shown
 * @property {number | null} marked number of the region that is marked, from 0
 * @property {ListQuery} list where in the list it is, or from where a slide was opened
 */
/**
 * Which regions of a slide the table holds, and in which order.
 * @typedef {object} RegionQuery
 * @property {string} group "": any
 * @property {number} area least area, µm²
 * @property {string} sort see `RegionQuery` of the server
 * @property {number} from regions to leave out at the start of the table
 */
/**
 * Which results are listed, and in which order.
 * @typedef {object} ListQuery
 * @property {string} find only results with this in their name or folder
 * @property {string} status "": any
 * @property {string} model name and version; "": any
 * @property {string} since day, as 2026-01-31; "": any
 * @property {string} until the last day; "": any
 * @property {number} regions least number of traced regions
 * @property {string} sort see `ListQuery` of the server
 * @property {number} from results to leave out at the start of the list
 */

/** All results by name. @type {Readonly<ListQuery>} */
export const LIST = Object.freeze({ find: "", status: "", model: "", since: "", until: "", regions: 0, sort: "name", from: 0 });

/** All regions, the largest first. @type {Readonly<RegionQuery>} */
export const TABLE = Object.freeze({ group: "", area: 0, sort: "-area", from: 0 });

/** Layers that are shown unless the address says otherwise, and how strongly. */
export const OPACITY = Object.freeze({ classes: 0.3, probability: 0, uncertainty: 0, tissue: 0, coverage: 0.6, artifacts: 0.6 });

/** @param {string | null} [slide] @returns {State} */
export function newState(slide = null) {
  return { slide, other: null, at: null, opacity: { ...OPACITY }, channel: null, outlines: true, off: [], threshold: null, of: null, safe: false, turn: 0, minimap: true, brightness: 100, contrast: 100, gray: false, table: null, marked: null, list: { ...LIST } };
}

/**
 * Read the fragment; what is not understood is left at its default.
 * @param {string} fragment with or without its #
 * @returns {State}
 */
export function readState(fragment) {
  const values = new URLSearchParams(fragment.replace(/^#/, ""));
  const state = newState(values.get("slide") || null);
  state.other = values.get("with") || null;
  const at = numbers(values.get("at"));
  if (at.length === 3 && at[2] > 0) state.at = [at[0], at[1], at[2]];
  for (const layer of Object.keys(OPACITY)) state.opacity[layer] = within(values.get(layer)) ?? state.opacity[layer];
  state.channel = values.get("channel") || null;
  state.outlines = values.get("outlines") !== "0";
  state.off = numbers(values.get("off")).filter((code) => Number.isInteger(code) && code >= 0 && code < 256);
  state.threshold = within(values.get("threshold"));
  state.of = values.get("of") || null;
  state.list = readList(state.slide ? values.get("list") ?? "" : values);
  state.safe = values.get("colors") === "safe";
  state.turn = [90, 180, 270].find((turn) => values.get("turn") === String(turn)) ?? 0;
  state.minimap = values.get("minimap") !== "0";
  state.brightness = percent(values.get("brightness"));
  state.contrast = percent(values.get("contrast"));
  state.gray = values.get("gray") === "1";
  state.table = values.has("table") ? readTable(values.get("table") ?? "") : null;
  state.marked = /^\d{1,9}$/.test(values.get("region") ?? "") ? Number(values.get("region")) : null;
  return state;
}

/**
 * Return the fragment of a state; only what differs from the defaults.
 * @param {State} state
 */
export function writeState(state) {
  const values = new URLSearchParams(state.slide ? { slide: state.slide } : {});
  const put = (/** @type {string} */ name, /** @type {string | number | null | false} */ value) => {
    if (value !== null && value !== false && value !== "") values.set(name, String(value));
  };
  const list = writeList(state.list);
  if (!state.slide) return list && `#${list}`;
  put("with", state.other);
  put("at", state.at && state.at.map((v, i) => (i === 2 ? Number(v.toPrecision(8)) : Math.round(v * 100) / 100)).join(","));
  for (const [layer, usual] of Object.entries(OPACITY)) put(layer, state.opacity[layer] !== usual && String(state.opacity[layer]));
  put("channel", state.channel);
  put("outlines", !state.outlines && "0");
  put("off", state.off.join(","));
  put("threshold", state.threshold === null ? null : String(state.threshold));
  put("of", state.threshold === null ? null : state.of);
  put("colors", state.safe && "safe");
  put("turn", state.turn || null);
  put("minimap", !state.minimap && "0");
  put("brightness", state.brightness !== 100 && state.brightness);
  put("contrast", state.contrast !== 100 && state.contrast);
  put("gray", state.gray && "1");
  put("table", state.table && (writeChanged(state.table, TABLE) || "all"));
  put("region", state.marked);
  put("list", list);
  return "#" + values.toString().replaceAll("%2C", ",");
}

/** @param {string | URLSearchParams} from @returns {ListQuery} */
function readList(from) {
  const values = new URLSearchParams(from), list = { ...LIST };
  const count = (/** @type {string} */ name) => Math.max(0, Math.floor(Number(values.get(name)) || 0));
  const day = (/** @type {string} */ name) => (/^\d{4}-\d\d-\d\d$/.test(values.get(name) ?? "") ? String(values.get(name)) : "");
  for (const name of /** @type {const} */ (["find", "status", "model", "sort"])) list[name] = values.get(name) || list[name];
  return { ...list, since: day("since"), until: day("until"), regions: count("regions"), from: count("from") };
}

/** @param {string} text @returns {RegionQuery} */
function readTable(text) {
  const values = new URLSearchParams(text), area = Number(values.get("area"));
  return { group: values.get("group") ?? TABLE.group, area: area > 0 && area < Infinity ? area : 0, sort: values.get("sort") || TABLE.sort,
    from: Math.max(0, Math.floor(Number(values.get("from")) || 0)) };
}

/** Return the fragment of a list, without its #; only what differs from the defaults. @param {ListQuery} list */
export function writeList(list) {
  return writeChanged(list, LIST);
}

/**
 * Return what differs from the defaults as a query.
 * @template {object} Query
 * @param {Query} query
 * @param {Readonly<Query>} usual
 */
export function writeChanged(query, usual) {
  const changed = Object.entries(query).filter(([name, value]) => value !== Reflect.get(usual, name));
  return new URLSearchParams(changed.map(([name, value]) => [name, String(value)])).toString();
}

/** @param {string | null} text @returns {number[]} finite numbers only, or none */
function numbers(text) {
  const found = text ? text.split(",").map(Number) : [];
  return found.every(Number.isFinite) ? found : [];
}

/** @param {string | null} text @returns {number} 100 where there is none from 40 to 200 */
function percent(text) {
  const value = text ? Number(text) : NaN;
  return value >= 40 && value <= 200 ? value : 100;
}

/** @param {string | null} text @returns {number | null} */
function within(text) {
  const value = text ? Number(text) : NaN;
  return value >= 0 && value <= 1 ? value : null;
}
