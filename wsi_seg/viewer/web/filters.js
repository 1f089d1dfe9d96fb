// Search, filters and order of the list of slides.

import { api } from "./api.js";
import { debounce, h, say } from "./dom.js";
import { LIST } from "./state.js";

/** @typedef {import("./state.js").ListQuery} ListQuery */

const SET = /** @type {const} */ (["status", "model", "since", "until", "regions", "sort"]);
const STATUSES = Object.freeze({ "": "any", done: "done", incomplete: "incomplete", running: "running", interrupted: "interrupted", damaged: "damaged" });
const SORTS = Object.freeze({
  name: "name", "-name": "name, Z first", "-date": "newest first", date: "oldest first", "-regions": "most regions first", regions: "fewest regions first",
  "-tissue": "most tissue first", tissue: "least tissue first", status: "status", model: "model",
});

/**
 * Return the controls; what they say is passed on as soon as it is said.
 * @param {Readonly<ListQuery>} list as it is now
 * @param {(change: Partial<ListQuery>) => void} onListChange
 */
export function buildFilters(list, onListChange) {
  const onChange = (/** @type {Partial<ListQuery>} */ change) => {
    onListChange(change);
    fold.textContent = foldText({ ...list, ...change });
  };
  const search = h("input", { type: "search", value: list.find, placeholder: "Name or folder", "aria-label": "Find results by name or folder",
    oninput: debounce(200, () => onChange({ find: search.value.trim() })) });
  const status = pick(STATUSES, list.status, (value) => onChange({ status: value }));
  const sort = pick(SORTS, list.sort, (value) => onChange({ sort: value }));
  const model = pick({ "": "any", ...(list.model && { [list.model]: list.model }) }, list.model, (value) => onChange({ model: value }));
  const day = (/** @type {"since" | "until"} */ name) => {
    const input = h("input", { type: "date", value: list[name], onchange: () => onChange({ [name]: input.value }) });
    return input;
  };
  const regions = h("input", { type: "number", min: "0", step: "1", value: list.regions ? String(list.regions) : "", placeholder: "0",
    oninput: debounce(200, () => onChange({ regions: Math.max(0, Math.floor(Number(regions.value) || 0)) })) });
  // The server reads all results for it: only once somebody asks.
  const fill = async () => {
    model.removeEventListener("focus", fill);
    try {
      /** @type {string[]} */
      const names = await api("models");
      const now = model.value;
      model.replaceChildren(h("option", { value: "" }, "any"), ...names.map((name) => h("option", { value: name }, name)));
      model.value = names.includes(now) ? now : "";
    } catch (error) {
      say(error instanceof Error ? error.message : String(error));
    }
  };
  model.addEventListener("focus", fill);
  model.addEventListener("pointerenter", fill, { once: true });
  const line = (/** @type {string} */ text, /** @type {HTMLElement} */ input) => {
    if (!input.hasAttribute("aria-label")) input.setAttribute("aria-label", text);
    return h("label", {}, h("span", {}, text), input);
  };
  const rest = h("div", { className: "more", id: "filters" }, line("Status", status), line("Segmented by", model), line("From", day("since")), line("To", day("until")),
    line("Regions, at least", regions), line("Order", sort));
  // Only phones show it: there the other filters are folded away.
  const fold = h("button", { type: "button", className: "fold", "aria-expanded": "false", "aria-controls": "filters",
    onclick: () => fold.setAttribute("aria-expanded", String(rest.classList.toggle("open"))) }, foldText(list));
  return h("form", { className: "filters", role: "search", onsubmit: (/** @type {Event} */ event) => event.preventDefault() }, line("Find", search), fold, rest);
}

/** Name the button that unfolds filters, with how many are set. @param {Readonly<ListQuery>} list */
function foldText(list) {
  const set = SET.filter((name) => list[name] !== LIST[name]).length;
  return set ? `Filters (${set})` : "Filters";
}

/**
 * @param {Readonly<Record<string, string>>} options
 * @param {string} value
 * @param {(value: string) => void} onPick
 */
function pick(options, value, onPick) {
  const input = h("select", { onchange: () => onPick(input.value) }, ...Object.entries(options).map(([each, text]) => h("option", { value: each }, text)));
  input.value = value;
  return input;
}
