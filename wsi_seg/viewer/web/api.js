// What the server offers. Paths are relative, so that it may sit behind another server's folder.

/** @typedef {{name: string, color: string, mm2: number}} ClassArea */
/** @typedef {{code: number, name: string, color: string, safe_color: string, mm2: number | null, assessed: boolean}} TissueClass */
/** @typedef {{name: string, color: string, safe_color: string, codes: number[], assessed: boolean, stored: boolean, traced: boolean, count: number | null, mm2: number | null}} Group */
/**
 * @typedef {object} SlideRow
 * @property {string} id
 * @property {string} name
 * @property {"done" | "incomplete" | "running" | "interrupted" | "damaged"} status
 * @property {string} [error] of a damaged result
 * @property {Progress | null} [progress] of a run that is not finished
 * @property {string} folder below the server's, to tell equal names apart
 * @property {number | null} [tissue_mm2]
 * @property {string} [model] name and version; not of a damaged result
 * @property {number} [date] when it was finished, else last written; seconds since 1970
 * @property {number | null} [regions] that were traced
 * @property {ClassArea[]} areas of the class map, where each pixel counts for its most likely class
 * @property {string} [unlike] how the slide differs from the training data; "" where it is not marked
 * @property {boolean} has_slide
 * @property {[number, number]} [size]
 * @property {number} folder_time seconds since 1970
 * @property {string} [version] see Slide; not of a damaged result
 */
/**
 * @typedef {object} Slide
 * @property {string} id
 * @property {string} name
 * @property {string} folder below the server's
 * @property {string} version changes when other results take their place; each address names it, and is refused then
 * @property {"done" | "incomplete" | "running" | "interrupted"} status
 * @property {Progress | null} progress of a run that is not finished
 * @property {[number, number]} size
 * @property {[number, number] | null} mpp
 * @property {[number, number, number, number] | null} bounds
 * @property {number} tile_size
 * @property {number} max_zoom
 * @property {TissueClass[]} classes
 * @property {string[]} channels
 * @property {Group[]} groups
 * @property {number | null} threshold of the run; null where nothing was traced
 * @property {string[]} layers
 * @property {string[]} scale colors of values from 0 to 1 in equal steps, linear between
 * @property {string} notice
 * @property {string} unlike how the slide differs from the training data; "" where it is not marked
 * @property {string} model name and version; "" of a run that is not finished
 * @property {string} finished when it was finished, ISO 8601; "" where that is not known
 * @property {boolean} report there is a report
 * @property {number} regions
 * @property {{legend: {name: string, color: string, mm2: number | null}[]}} coverage what could not be read as it should
 * @property {{name: string, color: string, safe_color: string, mm2: number | null}[]} artifacts empty where they were not looked for
 * @property {boolean} has_slide
 * @property {string | null} slide_problem
 */
/**
 * @typedef {object} RegionFacts
 * @property {string} name
 * @property {string} group
 * @property {number} [area_um2]
 * @property {number} perimeter_um
 * @property {number} [mean_probability] where it is stored
 * @property {[number, number, number, number]} bbox l0
 * @property {Record<string, number>} measurements
 */
/** @typedef {{index: number, group: string, area_um2?: number, mean_probability?: number, mean_uncertainty?: number}} RegionRow */
/** @typedef {{status: string, version: string, blocks_done: number, blocks_failed: number, blocks_total: number, tiles_done: number, tiles_total: number}} Progress */
/** @typedef {{id: string, name: string, folder: string}} Place of a result */
/** @typedef {{images: {name: string, size: [number, number], shows_label: boolean}[], labels: boolean}} Associated `labels`: those that show a label may be asked for */
/** @typedef {{slides: string[], models: {name: string, notice: string, groups: string[], traced: string[]}[], threshold: number, presets: {name: string, about: string, flags: string[], meanings: string[]}[], job: string | null}} RunOptions */
/** @typedef {{mpp: [number, number] | null, estimated: boolean, problem: string | null, results: {id: string, status: string, model: string, date: number, regions: number | null} | null}} SlideToRun */
/** @typedef {{allow_run: boolean, allow_review: boolean}} About */
/** @typedef {{state: "running" | "done" | "failed" | "stopped", stopping: boolean, message: string}} Job */
/** @typedef {Job & {tiles_done: number, tiles_total: number, slides_done: number, slides_total: number, result: string | null, pairs: [string, string][]}} RunJob */
/** @typedef {{old: number | null, new: number | null, difference: number | null, interval: [number, number] | null}} Score */
/** @typedef {{name: string, patients: number | null, images: number, overall: {mean_dice: Score}}} ComparedData */
/** @typedef {{verdict: "better" | "worse" | "no difference shown" | "cannot be told", sentence: string, bootstrap?: {level: number}, data_sets: ComparedData[]}} Comparison */
/** @typedef {Job & {name: string, step: number, steps: number, loss: number | null, validation_loss: number | null, validation_dice: number | null, command: string, comparison: Comparison | null}} TrainJob */
/** @typedef {{slides: {names: string, slides: string, known: boolean}[], models: {name: string, notice: string}[], model: string | null, steps: number, name: string, job: string | null, elsewhere: string[]}} RetrainOptions */

/**
 * Fetch JSON.
 * @template T
 * @param {string} path below `api/`
 * @param {RequestInit} [options]
 * @returns {Promise<T>}
 * @throws {ApiError} the server's one line
 */
export async function api(path, options) {
  return (await ask(path, options)).value;
}

/** Return the options of a request that sends JSON. @param {unknown} body @returns {RequestInit} */
export function send(body) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}

/**
 * Fetch a part of the list of results.
 * @param {import("./state.js").ListQuery} list
 * @param {number} limit
 * @returns {Promise<{rows: SlideRow[], total: number}>} total: how many there are in all
 */
export async function fetchSlides(list, limit) {
  const query = listQuery(list);
  query.set("limit", String(limit));
  if (list.from) query.set("offset", String(list.from));
  const { value, headers } = await ask(`slides?${query}`);
  return { rows: value, total: Number(headers.get("X-Total-Count")) };
}

/**
 * Return what the server is asked for a list; days are those of this machine's clock.
 * @param {import("./state.js").ListQuery} list
 */
export function listQuery({ find, status, model, since, until, regions, sort }) {
  const day = (/** @type {string} */ text, /** @type {number} */ more) => {
    const [year, month, date] = text.split("-").map(Number);
    return String(Math.max(0, new Date(year, month - 1, date + more).getTime() / 1000) || 0);
  };
  return new URLSearchParams({
    ...(find && { find }), ...(status && { status }), ...(model && { model }), ...(since && { since: day(since, 0) }),
    ...(until && { until: day(until, 1) }), ...(regions && { regions: String(regions) }), ...(sort !== "name" && { sort }),
  });
}

export class ApiError extends Error {
  /** @param {string} message @param {number} status of HTTP */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** @param {string} path @param {RequestInit} [options] */
async function ask(path, options) {
  const response = await fetch(path ? `api/${path}` : "api", options).catch(() => {
    throw new ApiError("The server does not answer, so nothing is stored; start wsi-seg view again.", 0);
  });
  const text = await response.text();
  if (response.ok) return { value: JSON.parse(text), headers: response.headers };
  throw new ApiError(problem(text) ?? `${response.status} ${response.statusText}`, response.status);
}

/** @param {string} text @returns {string | null} */
function problem(text) {
  try {
    return String(JSON.parse(text).error);
  } catch {
    return null; // no JSON: a proxy between us and the server spoke
  }
}

/**
 * Return a path below `api/`.
 * @param {string} id
 * @param {string} [rest]
 * @param {string} [version] of the results: other ones are refused, and the answer may be kept
 */
export function slidePath(id, rest = "", version) {
  const query = version ? `${rest.includes("?") ? "&" : "?"}v=${encodeURIComponent(version)}` : "";
  return `slides/${encodeURIComponent(id)}${rest}${query}`;
}

/**
 * A class's or group's name for reading: "blood_vessel" becomes "Blood vessel".
 * @param {string} name
 */
export function title(name) {
  const words = name.replaceAll("_", " ").replace(/\bdcis\b/i, "DCIS");
  return words.charAt(0).toUpperCase() + words.slice(1);
}
