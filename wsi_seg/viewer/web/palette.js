// Which classes and groups are shown, and in which colour.

/** @typedef {import("./api.js").Slide} Slide */
/** @typedef {import("./state.js").State} State */

/** @param {{color: string, safe_color: string}} entry class or group @param {boolean} safe */
export function colourOf(entry, safe) {
  return safe ? entry.safe_color : entry.color;
}

/** Codes of the class map that are shown. @param {Slide} slide @param {State} state */
export function shownCodes(slide, state) {
  return slide.classes.map((entry) => entry.code).filter((code) => !state.off.includes(code));
}

/** Groups of which at least one class is shown. @param {Slide} slide @param {State} state */
export function shownGroups(slide, state) {
  return slide.groups.filter((group) => group.codes.some((code) => !state.off.includes(code)));
}
