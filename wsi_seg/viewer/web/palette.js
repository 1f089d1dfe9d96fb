// Which classes and groups are shown, and in which color.

import { unfinished } from "./status.js";

/** @typedef {import("./api.js").Slide} Slide */
/** @typedef {import("./state.js").State} State */

/** @param {{color: string, safe_color: string}} entry class or group @param {boolean} safe */
export function colorOf(entry, safe) {
  return safe ? entry.safe_color : entry.color;
}

/** Whether anything of a slide could not be read as it should, as far as is known. @param {Slide} slide */
export function hasFaults(slide) {
  return unfinished(slide.status) || slide.status === "incomplete" || slide.coverage.legend.some((one) => one.mm2);
}

/** Codes of the class map that are shown. @param {Slide} slide @param {State} state */
export function shownCodes(slide, state) {
  return slide.classes.map((entry) => entry.code).filter((code) => !state.off.includes(code));
}

/** Groups of which at least one class is shown. @param {Slide} slide @param {State} state */
export function shownGroups(slide, state) {
  return slide.groups.filter((group) => group.codes.some((code) => !state.off.includes(code)));
}
