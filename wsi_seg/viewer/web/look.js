// Brightness, contrast and gray of the slide alone: layers and outlines keep their colors.

import { h } from "./dom.js";

/** @typedef {import("./screen.js").SlideScreen} Screen */
/** @typedef {import("./state.js").State} State */

/** @param {Pick<State, "brightness" | "contrast" | "gray">} look @returns {string} what a canvas takes as its filter; "" for none */
export function filterOf({ brightness, contrast, gray }) {
  return [gray && "grayscale(1)", brightness !== 100 && `brightness(${brightness}%)`, contrast !== 100 && `contrast(${contrast}%)`].filter(Boolean).join(" ");
}

/** Whether this browser can change pictures on a canvas; Safari cannot. */
export function canFilter() {
  return typeof CanvasRenderingContext2D !== "undefined" && "filter" in CanvasRenderingContext2D.prototype;
}

/**
 * Change what a canvas shows by now, at once.
 * @param {CanvasRenderingContext2D} context @param {string} filter
 */
export function applyFilter(context, filter) {
  context.save();
  context.setTransform(1, 0, 0, 1, 0, 0);
  Object.assign(context, { globalAlpha: 1, globalCompositeOperation: "copy", filter });
  context.drawImage(context.canvas, 0, 0);
  context.restore();
}

/** @param {Screen} screen @returns {{element: HTMLElement, sync: (state: State) => void}} */
export function buildLook(screen) {
  const can = canFilter();
  const slider = (/** @type {"brightness" | "contrast"} */ name, /** @type {string} */ text) => {
    const shown = h("output", {}), range = h("input", { type: "range", min: "40", max: "200", step: "5", disabled: !can, "aria-label": `${text} of the slide`,
      oninput: () => screen.update({ [name]: Number(range.value) }) });
    return { name, range, shown, row: h("label", { className: "slider" }, h("span", { className: "name" }, text), range, shown) };
  };
  const sliders = [slider("brightness", "Brightness"), slider("contrast", "Contrast")];
  const gray = h("input", { type: "checkbox", disabled: !can, onchange: () => screen.update({ gray: gray.checked }) });
  const reset = h("button", { type: "button", className: "small", onclick: () => screen.update({ brightness: 100, contrast: 100, gray: false }) }, "As scanned");
  return {
    element: h("section", { hidden: !screen.slide.has_slide }, h("h2", {}, "Slide"), ...sliders.map(({ row }) => row), h("label", { className: "line" }, gray, "Gray"), reset,
      !can && h("p", { className: "facts" }, "This browser cannot change pictures of the slide; Chromium and Firefox can.")),
    sync: (state) => {
      for (const { name, range, shown } of sliders) {
        range.value = String(state[name]);
        shown.textContent = `${state[name]} %`;
      }
      gray.checked = state.gray;
      reset.disabled = !filterOf(state);
    },
  };
}
