// Which classes and groups are shown, and in which colour.

/** @typedef {import("./api.js").Slide} Slide */
/** @typedef {import("./api.js").Group} Group */
/** @typedef {import("./state.js").State} State */

/** @param {Slide} slide @param {{code: number, color: string}} entry @param {boolean} safe */
export function classColour(slide, entry, safe) {
  return (safe && slide.palette_safe[String(entry.code)]) || entry.color;
}

/** @param {Slide} slide @param {Group} group @param {boolean} safe */
export function groupColour(slide, group, safe) {
  return (safe && slide.palette_safe[String(group.codes[0])]) || group.color;
}

/** Codes of the class map that are shown. @param {Slide} slide @param {State} state */
export function shownCodes(slide, state) {
  return slide.classes.map((entry) => entry.code).filter((code) => !state.off.includes(code));
}

/** Groups of which at least one class is shown. @param {Slide} slide @param {State} state */
export function shownGroups(slide, state) {
  return slide.groups.filter((group) => group.codes.some((code) => !state.off.includes(code)));
}
