// What is said of results that are not finished, or not whole.

/** @typedef {import("./api.js").Progress} Progress */

/** @param {string} status @returns {boolean} whether its folder can still fill */
export function unfinished(status) {
  return status === "running" || status === "interrupted";
}

/** @param {string} status @param {Progress | null} [progress] @returns {string} */
export function statusText(status, progress) {
  if (status === "incomplete") return "incomplete: parts of the slide could not be read";
  if (!unfinished(status) || !progress) return status;
  const share = progress.tiles_total ? ` (${((100 * progress.tiles_done) / progress.tiles_total).toFixed(0)} %)` : "";
  const next = status === "interrupted" ? "; the same command resumes it" : "";
  const failed = progress.blocks_failed ? `, ${progress.blocks_failed} unreadable` : "";
  return `${status}: ${progress.blocks_done} of ${progress.blocks_total} blocks${share}${failed}${next}`;
}
