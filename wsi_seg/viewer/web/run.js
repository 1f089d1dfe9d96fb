// Start a run from the browser; only where the server was started with --allow-run.

import { api, title } from "./api.js";
import { h } from "./dom.js";
import { newState, writeState } from "./state.js";

/** @typedef {import("./api.js").RunOptions} RunOptions */
/** @typedef {import("./api.js").Job} Job */

const POLL_MS = 1000;

/**
 * @param {() => void} onChange a run has started or ended
 * @returns {Promise<{button: HTMLElement, dialog: HTMLElement, close: () => void} | null>} null: not allowed here
 */
export async function runDialog(onChange) {
  /** @type {{allow_run: boolean}} */
  const server = await api("");
  if (!server.allow_run) return null;
  /** @type {RunOptions} */
  const options = await api("run/options");
  const slide = h("select", {}, ...options.slides.map((name) => h("option", { value: name }, name)));
  const model = h("select", { onchange: () => showModel() }, ...options.models.map(({ name }) => h("option", { value: name }, name)));
  const threshold = h("input", { type: "number", min: "0", max: "1", step: "0.05", value: String(options.threshold) });
  const groups = h("fieldset", {});
  const notice = h("p", { className: "notice" });
  const status = h("p", { role: "status", className: "progress" });
  const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Share of tiles done" });
  const start = h("button", { type: "button", className: "primary", onclick: () => void follow(begin) }, "Start");
  const stop = h("button", { type: "button", disabled: true, onclick: () => void halt() }, "Stop");
  const close = h("button", { type: "button", onclick: () => dialog.close() }, "Close");
  const line = (/** @type {string} */ text, /** @type {HTMLElement} */ input) => h("label", { className: "pick" }, h("span", {}, text), input);
  const dialog = h("dialog", { className: "run", "aria-label": "Run" }, h("h2", {}, "Segment a slide"), line("Slide", slide), line("Model", model),
    groups, line("Threshold", threshold), notice, bar, status, h("div", { className: "actions" }, start, stop, close));

  function showModel() {
    const chosen = chosenModel();
    const boxes = (chosen?.groups ?? []).map((name) => h("label", { className: "line" }, h("input", { type: "checkbox", checked: chosen?.traced.includes(name), value: name }), title(name)));
    groups.replaceChildren(h("legend", {}, "Classes"), ...boxes);
    notice.textContent = chosen?.notice ?? "";
  }

  function chosenModel() {
    return options.models.find(({ name }) => name === model.value);
  }

  /** @type {string | null} */
  let job = null;
  let closed = false;

  /** @returns {Promise<string>} the run's id */
  async function begin() {
    const chosen = [...groups.querySelectorAll("input")].filter((box) => box.checked).map((box) => box.value);
    const body = { slide: slide.value, model: model.value, groups: chosen, threshold: Number(threshold.value) };
    /** @type {{job: string}} */
    const answer = await api("run", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    return answer.job;
  }

  /** @param {() => Promise<string>} begun gives the id of a run that was begun */
  async function follow(begun) {
    start.disabled = true;
    try {
      job = await begun();
      stop.disabled = false;
      await watch(job);
    } catch (error) {
      status.textContent = error instanceof Error ? error.message : String(error);
    } finally {
      start.disabled = false;
      stop.disabled = true;
    }
  }

  /** @param {string} id */
  async function watch(id) {
    bar.hidden = false;
    onChange();
    while (!closed) {
      /** @type {Job} */
      const now = await api(`run/${encodeURIComponent(id)}`);
      bar.value = now.tiles_total ? now.tiles_done / now.tiles_total : 0;
      const text = now.stopping ? "stopping …" : now.state === "running" ? `${now.tiles_done} of ${now.tiles_total} tiles` : now.message || now.state;
      status.replaceChildren(text, " ", now.result ? h("a", { href: writeState(newState(now.result)) }, now.state === "running" ? "Watch" : "Look at it") : "");
      if (now.state !== "running") return onChange();
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  async function halt() {
    stop.disabled = true;
    if (job !== null) await api(`run/${encodeURIComponent(job)}`, { method: "DELETE" });
  }

  showModel();
  const { job: underWay } = options; // begun before this page was opened
  if (underWay) void follow(async () => underWay);
  const button = h("button", { type: "button", className: "primary", onclick: () => dialog.showModal() }, "Segment a slide …");
  return { button, dialog, close: () => { closed = true; } };
}
