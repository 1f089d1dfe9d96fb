// Pictures that are stored with a slide. Those that show its label are not fetched before somebody asks for them.

import { api, slidePath, title } from "./api.js";
import { h, say } from "./dom.js";

/** @typedef {import("./screen.js").SlideScreen} Screen */

/** @param {Screen} screen @returns {{element: HTMLElement, sync: () => void}} */
export function buildAssociated({ slide }) {
  const body = h("div", { className: "associated", hidden: true });
  const open = h("button", { type: "button", className: "small", ariaExpanded: "false", ariaLabel: "Stored images: label, macro, thumbnail", onclick: () => void toggle() }, "Show");
  let asked = false;
  async function toggle() {
    body.hidden = !body.hidden;
    open.ariaExpanded = String(!body.hidden);
    open.textContent = body.hidden ? "Show" : "Hide";
    if (asked) return;
    asked = true;
    try {
      /** @type {import("./api.js").Associated} */
      const { images, labels } = await api(slidePath(slide.id, "/associated", slide.version));
      const hidden = images.some((one) => one.shows_label);
      body.replaceChildren(...(hidden ? [h("p", { className: "facts" }, "Label and macro may name a patient: they are fetched when you ask, and not kept by the browser.")] : []),
        ...images.map((one) => (one.shows_label ? onRequest(one.name) : picture(one.name))),
        ...(images.length ? [] : [h("p", { className: "facts" }, "None are stored with this slide.")]),
        ...(labels ? [] : [h("p", { className: "facts" }, "This server shows no labels.")]));
    } catch (error) {
      asked = false;
      say(error instanceof Error ? error.message : String(error));
    }
  }

  /** @param {string} name */
  function picture(name) {
    const failed = () => image.replaceWith(h("p", { className: "problem" }, `The ${name} cannot be read.`));
    const image = h("img", { alt: `${title(name)} of ${slide.name}`, onerror: failed, src: `api/${slidePath(slide.id, `/associated/${encodeURIComponent(name)}.jpg`, slide.version)}` });
    return h("figure", {}, image, h("figcaption", { className: "facts" }, title(name)));
  }

  /** @param {string} name */
  function onRequest(name) {
    const place = h("div", {}), button = h("button", { type: "button", className: "small", onclick: () => {
      const shown = place.children.length > 0;
      place.replaceChildren(...(shown ? [] : [picture(name)]));
      button.textContent = `${shown ? "Show" : "Hide"} the ${name}`;
    } }, `Show the ${name}`);
    return h("div", {}, button, place);
  }

  return { element: h("section", { hidden: !slide.has_slide }, h("div", { className: "line" }, h("h2", {}, "Stored images"), open), body), sync: () => undefined };
}
