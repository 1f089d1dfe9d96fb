// The color scale of probability and uncertainty: its bar in the panel and in saved pictures.

import { title } from "./api.js";
import { h } from "./dom.js";

/** @typedef {import("./api.js").Slide} Slide */
/** @typedef {import("./state.js").State} State */
/** @typedef {{name: string, ends: [string, string]}} Scale of one layer, with its end values and their unit */

/** @type {Record<string, (slide: Slide, state: State) => Scale>} by layer */
const SCALES = {
  probability: (slide, state) => ({ name: `Probability of ${title(state.channel ?? slide.channels[0])}`, ends: ["0 %", "100 %"] }),
  uncertainty: () => ({ name: "Uncertainty (entropy)", ends: ["0 % sure", "100 % any class"] }),
};

/** @param {Slide} slide @param {State} state @returns {Scale[]} of the layers that are shown */
export function shownScales(slide, state) {
  return Object.entries(SCALES).filter(([layer]) => slide.layers.includes(layer) && state.opacity[layer] > 0).map(([, scale]) => scale(slide, state));
}

/** @param {Slide} slide @param {string} layer @returns {{element: HTMLElement, sync: (state: State) => void}} */
export function buildScale(slide, layer) {
  const bar = h("div", { className: "ramp", role: "img" }), [low, high] = [h("span"), h("span")];
  bar.style.backgroundImage = `linear-gradient(to right, ${slide.scale.join(", ")})`;
  const element = h("div", { className: "scale" }, bar, h("p", { className: "facts" }, low, high));
  return {
    element,
    sync: (state) => {
      const { name, ends } = SCALES[layer](slide, state);
      element.hidden = !(state.opacity[layer] > 0);
      bar.setAttribute("aria-label", `Color scale, ${name}: from dark violet, ${ends[0]}, to light yellow, ${ends[1]}`);
      [low.textContent, high.textContent] = ends;
    },
  };
}

/**
 * Draw the bar of a layer; return how wide it is with its texts.
 * @param {OffscreenCanvasRenderingContext2D} context with its font
 * @param {Slide} slide
 * @param {Scale} scale
 * @param {number} x left end
 * @param {number} y top
 * @param {number} ratio device pixels per CSS pixel
 */
export function drawScale(context, slide, { name, ends: [low, high] }, x, y, ratio) {
  const text = `${name}: ${low}`, left = x + context.measureText(text).width + 6 * ratio, width = 90 * ratio;
  const ramp = context.createLinearGradient(left, 0, left + width, 0);
  slide.scale.forEach((color, i) => ramp.addColorStop(i / (slide.scale.length - 1), color));
  context.fillStyle = ramp;
  context.fillRect(left, y, width, 11 * ratio);
  context.fillStyle = "#1d1b20";
  context.fillText(text, x, y + 10 * ratio);
  context.fillText(high, left + width + 6 * ratio, y + 10 * ratio);
  return left + width + 6 * ratio + context.measureText(high).width - x;
}
