// Start a run from the browser; only where the server was started with --allow-run.

import { api, title } from "./api.js";
import { h } from "./dom.js";
import { jobControls } from "./job.js";
import { newState, writeState } from "./state.js";

/** @typedef {import("./api.js").RunOptions} RunOptions */

/**
 * @param {boolean} allowed
 * @param {() => void} onChange a run has started or ended
 * @returns {Promise<{button: HTMLElement, dialog: HTMLElement, close: () => void} | null>} null: not allowed here
 */
export async function runDialog(allowed, onChange) {
  if (!allowed) return null;
  /** @type {RunOptions} */
  const options = await api("run/options");
  const slide = h("select", { onchange: () => void showSlide() }, ...options.slides.map((name) => h("option", { value: name }, name)));
  const model = h("select", { onchange: () => showModel() }, ...options.models.map(({ name }) => h("option", { value: name }, name)));
  const threshold = h("input", { type: "number", min: "0", max: "1", step: "0.05", value: String(options.threshold) });
  const groups = h("fieldset", {});
  const notice = h("p", { className: "notice" });
  const mpp = h("input", { type: "number", min: "0", max: "1000", step: "any" });
  const scale = h("p", { className: "notice" });
  const preset = h("select", { onchange: () => showPreset() }, ...options.presets.map(({ name }) => h("option", { value: name }, title(name))));
  const means = h("div", { className: "notice" });
  const overwrite = h("input", { type: "checkbox" });
  const replaced = h("p", { className: "notice" });
  const replace = h("div", { hidden: true }, h("label", { className: "line" }, overwrite, "Replace the results that are there"), replaced);
  const job = jobControls({ path: "run", label: "Share of tiles done", body: asked, tell: tellRun, onChange: (now) => { onChange(); if (now) void showSlide(); } });
  const close = h("button", { type: "button", onclick: () => dialog.close() }, "Close");
  const line = (/** @type {string} */ text, /** @type {HTMLElement} */ input) => h("label", { className: "pick" }, h("span", {}, text), input);
  const dialog = h("dialog", { className: "run", "aria-label": "Run" }, h("h2", {}, "Segment a slide"), line("Slide", slide), line("µm/px", mpp), scale,
    line("Model", model), groups, line("Threshold", threshold), line("Preset", preset), means, replace, notice, job.bar, job.status, h("div", { className: "actions" }, job.start, job.stop, close));

  function showModel() {
    const chosen = chosenModel();
    const boxes = (chosen?.groups ?? []).map((name) => h("label", { className: "line" }, h("input", { type: "checkbox", checked: chosen?.traced.includes(name), value: name }), title(name)));
    groups.replaceChildren(h("legend", {}, "Classes"), ...boxes);
    notice.textContent = chosen?.notice ?? "";
  }

  function chosenModel() {
    return options.models.find(({ name }) => name === model.value);
  }

  function showPreset() {
    const chosen = options.presets.find(({ name }) => name === preset.value);
    const settings = (chosen?.flags ?? []).map((flag, i) => h("li", {}, h("code", {}, flag.replace("=", " ")), ` ${chosen?.meanings[i]}`));
    means.replaceChildren(h("p", {}, chosen?.about ?? ""), h("ul", {}, ...settings));
  }

  /** Say the scale of the slide, and what a run of it would replace. */
  async function showSlide() {
    const wanted = slide.value;
    [mpp.value, mpp.placeholder, scale.textContent, replaced.textContent] = ["", "", "", ""];
    replace.hidden = true;
    overwrite.checked = false;
    if (!wanted) return;
    try {
      /** @type {import("./api.js").SlideToRun} */
      const found = await api(`run/slide?${new URLSearchParams({ slide: wanted })}`);
      if (slide.value !== wanted) return; // another one was chosen since
      mpp.placeholder = found.mpp ? `${Number(found.mpp[0].toPrecision(4))}, as the slide says` : "";
      scale.textContent = found.problem ?? (found.estimated ? "Estimated from the objective power; type it if you know better." : found.mpp ? "" : "The slide does not say it: type the microns per pixel of its full resolution.");
      replace.hidden = !found.results;
      if (found.results) replaced.textContent = `There are results${of(found.results)}. Without this they are kept. Reviews are kept in any case.`;
    } catch (error) {
      scale.textContent = error instanceof Error ? error.message : String(error);
    }
  }

  /** @param {NonNullable<import("./api.js").SlideToRun["results"]>} results */
  function of({ status, model: by, date, regions }) {
    const count = regions === null ? "" : `, ${regions.toLocaleString("en")} region${regions === 1 ? "" : "s"}`;
    return ` of this slide (${[status === "done" ? "" : status, by, date ? new Date(1000 * date).toLocaleDateString("sv") : ""].filter(Boolean).join(", ")}${count})`;
  }

  function asked() {
    const chosen = [...groups.querySelectorAll("input")].filter((box) => box.checked).map((box) => box.value);
    return { slide: slide.value, model: model.value, groups: chosen, threshold: Number(threshold.value), preset: preset.value, mpp: mpp.value ? Number(mpp.value) : null, overwrite: overwrite.checked };
  }

  showModel();
  showPreset();
  if (options.job) void job.follow(options.job); // begun before this page was opened
  const button = h("button", { type: "button", className: "primary", onclick: () => { dialog.showModal(); void showSlide(); } }, "Segment a slide …");
  return { button, dialog, close: job.close };
}

/** Say how far a run is, with what is there to look at. @param {import("./api.js").RunJob} now */
export function tellRun({ state, tiles_done: done, tiles_total: total, slides_done: slides, slides_total: all, message, result }) {
  const running = state === "running", several = all > 1 && `slide ${Math.min(slides + 1, all)} of ${all}: `;
  const now = running && total ? done / total : 0; // results that are replaced are there already
  const share = !running ? 1 : all > 1 ? (slides + now) / all : now;
  const more = result ? h("a", { href: writeState(newState(result)) }, running ? "Watch" : "Look at it") : undefined;
  return { share, text: running ? `${several || ""}${done} of ${total} tiles` : message || state, more };
}
