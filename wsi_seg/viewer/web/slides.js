// The list of slides.

import { api, slidePath, title } from "./api.js";
import { h } from "./dom.js";
import { formatMm2 } from "./geometry.js";
import { paint } from "./pane.js";
import { runDialog } from "./run.js";
import { newState, writeState } from "./state.js";
import { statusText } from "./status.js";

/** @typedef {import("./api.js").SlideRow} SlideRow */

/**
 * Show the list and keep it up to date while runs are under way.
 * @param {HTMLElement} root
 * @param {SlideRow[]} rows
 * @returns {Promise<() => void>} what stops it
 */
export async function showSlides(root, rows) {
  document.title = "Slides – wsi-seg view";
  const list = h("ul", { className: "slides" });
  const fill = (/** @type {SlideRow[]} */ now) => list.replaceChildren(...now.map(slideCard));
  const run = await runDialog(async () => fill(await api("slides")));
  root.replaceChildren(h("main", { className: "list" }, h("header", {}, h("h1", {}, "Slides"), run?.button),
    rows.length ? list : h("p", {}, "No results yet: wsi-seg run SLIDE -o FOLDER makes some."), run?.dialog));
  if (!rows.length) root.querySelector("main")?.append(list);
  fill(rows);
  let shown = JSON.stringify(rows);
  const timer = setInterval(async () => {
    if (document.hidden) return;
    const now = await api("slides").catch(() => rows); // the server was stopped: what was shown stays
    if (JSON.stringify(now) !== shown) fill(/** @type {SlideRow[]} */ (now));
    shown = JSON.stringify(now);
  }, 5000);
  return () => {
    clearInterval(timer);
    run?.close();
  };
}

/** @param {SlideRow} row */
function slideCard(row) {
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
  const picture = h("img", { src: `api/${slidePath(row.id, "/thumbnail.jpg")}`, alt: "", loading: "lazy" });
  const state = row.status === "done" ? (typeof row.tissue_mm2 !== "number" ? "" : `${formatMm2(row.tissue_mm2)} of tissue`) : row.error ?? statusText(row.status, row.progress);
  const damaged = row.status === "damaged";
  return h("li", {}, h(damaged ? "div" : "a", { className: "slide", href: damaged ? null : writeState(newState(row.id)) }, damaged ? null : picture,
    h("span", { className: "text" }, h("strong", {}, row.name), row.folder && h("span", { className: "facts" }, row.folder),
      h("span", { className: "facts" }, state), strip, h("ul", { className: "legend" }, ...areas))));
}

