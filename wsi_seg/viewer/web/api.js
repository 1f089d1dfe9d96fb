// What the server offers. Paths are relative, so that it may sit behind another server's folder.

/** @typedef {{name: string, color: string, mm2: number}} ClassArea */
/** @typedef {{code: number, name: string, color: string, safe_color: string, mm2: number | null}} TissueClass */
/** @typedef {{name: string, color: string, safe_color: string, codes: number[], traced: boolean, count: number | null, mm2: number | null}} Group */
/**
 * @typedef {object} SlideRow
 * @property {string} id
 * @property {string} name
 * @property {"done" | "incomplete" | "running" | "interrupted" | "damaged"} status
 * @property {string} [error] of a damaged result
 * @property {Progress | null} [progress] of a run that is not finished
 * @property {string} folder below the server's, to tell equal names apart
 * @property {number | null} [tissue_mm2]
 * @property {ClassArea[]} areas
 * @property {boolean} has_slide
 * @property {[number, number]} [size]
 * @property {number} folder_time seconds since 1970
 */
/**
 * @typedef {object} Slide
 * @property {string} id
 * @property {string} name
 * @property {string} folder below the server's
 * @property {string | null} version changes with the results; null while they are being made
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
 * @property {string} notice
 * @property {number} regions
 * @property {boolean} has_slide
 * @property {string | null} slide_problem
 */
/**
 * @typedef {object} RegionFacts
 * @property {string} name
 * @property {string} group
 * @property {number} area_um2
 * @property {number} perimeter_um
 * @property {number} mean_probability
 * @property {[number, number, number, number]} bbox l0
 * @property {Record<string, number>} measurements
 */
/** @typedef {{status: string, blocks_done: number, blocks_total: number, tiles_done: number, tiles_total: number}} Progress */
/** @typedef {{slides: string[], models: {name: string, notice: string, groups: string[]}[], threshold: number, job: string | null}} RunOptions */
/** @typedef {{state: string, stopping: boolean, tiles_done: number, tiles_total: number, message: string | null, result: string | null}} Job */

/**
 * Fetch JSON.
 * @template T
 * @param {string} path below `api/`
 * @param {RequestInit} [options]
 * @returns {Promise<T>}
 * @throws {Error} the server's one line
 */
export async function api(path, options) {
  const response = await fetch(path ? `api/${path}` : "api", options);
  const text = await response.text();
  if (response.ok) return JSON.parse(text);
  throw new Error(problem(text) ?? `${response.status} ${response.statusText}`);
}

/** @param {string} text @returns {string | null} */
function problem(text) {
  try {
    return String(JSON.parse(text).error);
  } catch {
    return null; // no JSON: a proxy between us and the server spoke
  }
}

/** @param {string} id @param {string} [rest] */
export function slidePath(id, rest = "") {
  return `slides/${encodeURIComponent(id)}${rest}`;
}

/**
 * A class's or group's name for reading: "blood_vessel" becomes "Blood vessel".
 * @param {string} name
 */
export function title(name) {
  const words = name.replaceAll("_", " ").replace(/\bdcis\b/i, "DCIS");
  return words.charAt(0).toUpperCase() + words.slice(1);
}
