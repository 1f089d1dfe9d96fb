// Magnification as on a microscope: 40× is 0.25 µm per CSS pixel; 1:1 is one slide pixel per CSS pixel.

import { h, say } from "./dom.js";

/** @typedef {import("./screen.js").SlideScreen} Screen */

export const POWERS = Object.freeze([2.5, 5, 10, 20, 40]);
const UM_AT_1X = 10; // µm per pixel
const REASON = "The slide states no µm/px, so that its magnification is not known.";

/**
 * @param {readonly [number, number] | null} mpp µm per l0 pixel
 * @param {number} scale l0 pixels per CSS pixel
 * @returns {number | null} null without a scale
 */
export function powerAt(mpp, scale) {
  return mpp ? UM_AT_1X / (scale * Math.sqrt(mpp[0] * mpp[1])) : null;
}

/** @param {readonly [number, number]} mpp µm per l0 pixel @param {number} power @returns {number} l0 pixels per CSS pixel */
export function scaleAt(mpp, power) {
  return UM_AT_1X / (power * Math.sqrt(mpp[0] * mpp[1]));
}

/**
 * @param {readonly [number, number] | null} mpp
 * @param {number} scale
 * @returns {string} such as `12.5×`; without µm/px how many slide pixels a screen pixel shows
 */
export function powerText(mpp, scale) {
  const power = powerAt(mpp, scale);
  const plain = (/** @type {number} */ value) => String(Number(value.toPrecision(value < 10 ? 2 : 3)));
  if (power !== null) return `${plain(power)}×`;
  return scale >= 1 ? `1 : ${plain(scale)} px` : `${plain(1 / scale)} : 1 px`;
}

/**
 * Return the next power of the list above or below.
 * @param {number} power now
 * @param {1 | -1} step
 */
export function nextPower(power, step) {
  const ordered = step > 0 ? POWERS : POWERS.toReversed();
  return ordered.find((one) => (step > 0 ? one > power * 1.01 : one < power / 1.01)) ?? ordered[ordered.length - 1];
}

/** @param {Screen} screen @param {number} power */
export function goToPower({ leader }, power) {
  const { mpp } = leader.slide;
  if (!mpp) return say(REASON);
  const [x, y] = leader.at();
  leader.moveTo([x, y, scaleAt(mpp, power)]);
}

/** @param {Screen} screen @param {1 | -1} step */
export function stepPower(screen, step) {
  const { leader } = screen, power = powerAt(leader.slide.mpp, leader.at()[2]);
  if (power === null) return say(REASON);
  goToPower(screen, nextPower(power, step));
}

/**
 * The readout with a button for each power.
 * @param {Screen} screen
 * @returns {{element: HTMLElement, sync: () => void}}
 */
export function powerButtons(screen) {
  const { mpp } = screen.slide, shown = h("output", { className: "power", title: mpp ? "Magnification: 40× is 0.25 µm/px" : REASON, "aria-label": "Magnification" });
  const buttons = POWERS.map((power) => h("button", {
    type: "button", title: mpp ? `Magnification ${power}× (, and . step)` : REASON, "aria-label": `Magnification ${power}×`, "aria-disabled": mpp ? null : "true",
    onclick: () => goToPower(screen, power),
  }, `${power}×`));
  const whole = h("button", { type: "button", title: "One slide pixel per screen pixel", "aria-label": "One slide pixel per screen pixel", onclick: () => {
    const [x, y] = screen.leader.at();
    screen.leader.moveTo([x, y, 1]);
  } }, "1:1");
  return {
    element: h("div", { className: "tools", role: "group", "aria-label": "Magnification" }, shown, ...buttons, whole),
    sync: () => {
      const scale = screen.leader.at()[2], now = powerAt(mpp, scale), text = powerText(mpp, scale);
      if (shown.textContent !== text) shown.textContent = text;
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(now !== null && Math.abs(now / POWERS[i] - 1) < 0.005)));
      whole.setAttribute("aria-pressed", String(Math.abs(scale - 1) < 0.005));
    },
  };
}
