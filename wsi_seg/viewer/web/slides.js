// The list of slides.

import { fetchSlides, slidePath, title } from "./api.js";
import { h, say } from "./dom.js";
import { buildFilters } from "./filters.js";
import { formatMm2 } from "./geometry.js";
import { paint } from "./pane.js";
import { RetrainDialog } from "./retrain.js";
import { runDialog } from "./run.js";
import { newState, writeList, writeState } from "./state.js";
import { statusText } from "./status.js";

/** @typedef {import("./api.js").SlideRow} SlideRow */

const PAGE = 60; // results at a time

/**
 * Show the list, a page of it at a time, and keep it up to date while runs are under way.
 * @param {HTMLElement} root
 * @param {import("./state.js").State} state where in the list
 * @param {import("./api.js").About} about the server
 * @returns {Promise<() => void>} what stops it
 */
export async function showSlides(root, state, about) {
  document.title = "Slides – wsi-seg view";
  const list = h("ul", { className: "slides" }), empty = h("p", {});
  const place = { ...state.list };
  const filters = buildFilters(place, (change) => void go({ ...change, from: 0 }));
  const range = h("span", { role: "status" });
  const [before, after] = ["‹", "›"].map((text, i) => h("button", { type: "button", "aria-label": i ? "Next results" : "Previous results",
    onclick: () => go({ from: Math.max(0, place.from + (i ? PAGE : -PAGE)) }) }, text));
  const pages = h("div", { className: "pages" }, before, range, after);
  let shown = "", closed = false;

  async function refresh() {
    const wanted = { ...place }, now = await fetchSlides(wanted, PAGE);
    const text = JSON.stringify([wanted, now]);
    if (closed || text === shown || JSON.stringify(wanted) !== JSON.stringify(place)) return; // as before, or asked for something else since
    shown = text;
    const { rows, total } = now, last = wanted.from + rows.length, filtered = writeList({ ...wanted, from: 0, sort: "name" }) !== "";
    if (!rows.length && wanted.from) return go({ from: 0 });
    list.replaceChildren(...rows.map((row) => slideCard(row, wanted)));
    filters.hidden = total === 0 && !filtered;
    range.textContent = total ? `${(wanted.from + 1).toLocaleString("en")}–${last.toLocaleString("en")} of ${total.toLocaleString("en")}` : "none";
    before.hidden = after.hidden = total <= PAGE;
    before.disabled = wanted.from === 0;
    after.disabled = last >= total;
    empty.textContent = total ? "" : filtered ? "No result fits; change the search or the filters." : "No results yet: wsi-seg run SLIDE -o FOLDER makes some.";
  }

  /** @param {Partial<typeof place>} to */
  async function go(to) {
    Object.assign(place, to);
    history.replaceState(null, "", writeState({ ...newState(), list: { ...place } }) || location.pathname + location.search);
    await refresh().catch((error) => say(error.message));
  }

  const run = await runDialog(about.allow_run, () => void refresh());
  const retrain = about.allow_run && about.allow_review ? new RetrainDialog(null, () => void refresh()) : null;
  await refresh();
  root.replaceChildren(h("main", { className: "list" }, h("header", {}, h("h1", {}, "Slides"), pages, h("div", { className: "jobs" }, retrain?.button(), run?.button)), filters,
    h("p", { className: "facts" }, "Areas are those of the class map, where each pixel counts for its most likely class. Regions are counted as the run traced them."),
    empty, list, run?.dialog, retrain?.element));
  // Where the server was stopped, what was shown stays.
  const timer = setInterval(() => { if (!document.hidden) refresh().catch(() => {}); }, 5000);
  return () => {
    closed = true;
    clearInterval(timer);
    run?.close();
    retrain?.close();
  };
}

/** @param {SlideRow} row @param {import("./state.js").ListQuery} list that it is in */
function slideCard(row, list) {
  const total = row.areas.reduce((sum, area) => sum + area.mm2, 0);
  const strip = h("div", { className: "strip", role: "img", "aria-label": row.areas.map((a) => `${title(a.name)} ${formatMm2(a.mm2)}`).join(", ") });
  for (const area of total ? row.areas : []) {
    const part = h("span", { title: `${title(area.name)} ${formatMm2(area.mm2)}` });
    part.style.flexGrow = String(area.mm2 / total);
    part.style.backgroundColor = area.color;
    strip.append(part);
  }
  const largest = [...row.areas].filter((area) => area.mm2 > 0).sort((a, b) => b.mm2 - a.mm2).slice(0, 4);
  const areas = largest.map((area) => {
    const swatch = h("span", { className: "swatch" });
    paint(swatch, area.color);
    return h("li", {}, swatch, h("span", { className: "name" }, title(area.name)), h("span", { className: "number" }, formatMm2(area.mm2)));
  });
  const state = row.status === "done" ? (typeof row.tissue_mm2 !== "number" ? "" : `${formatMm2(row.tissue_mm2)} of tissue`) : row.error ?? statusText(row.status, row.progress);
  const damaged = row.status === "damaged";
  const picture = () => h("img", { loading: "lazy", alt: "", src: `api/${slidePath(row.id, "/thumbnail.jpg", row.version)}` }); // lazy before it has an address
  return h("li", {}, h(damaged ? "div" : "a", { className: "slide", href: damaged ? null : writeState({ ...newState(row.id), list }) }, damaged ? null : picture(),
    h("span", { className: "text" }, h("strong", {}, row.name), row.folder && h("span", { className: "facts" }, row.folder),
      h("span", { className: "facts" }, state), !damaged && h("span", { className: "facts" }, factsOf(row)), row.unlike && h("span", { className: "problem unlike" }, row.unlike), strip, h("ul", { className: "legend" }, ...areas))));
}

/** Model, date and count of a result in one line. @param {SlideRow} row */
function factsOf({ model, date, regions }) {
  const day = date ? new Date(1000 * date).toLocaleDateString("sv") : ""; // ISO, by this machine's clock
  const count = typeof regions === "number" ? `${regions.toLocaleString("en")} region${regions === 1 ? "" : "s"}` : "";
  return [model, day, count].filter(Boolean).join(" · ");
}
