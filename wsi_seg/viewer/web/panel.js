// The panel next to the slide: classes with areas, layers, outlines, and what can be taken away.

import { api, slidePath, title } from "./api.js";
import { h } from "./dom.js";
import { formatMm2 } from "./geometry.js";
import { buildNeighbors } from "./neighbors.js";
import { buildAssociated } from "./associated.js";
import { colorOf, hasFaults } from "./palette.js";
import { buildLook } from "./look.js";
import { paint } from "./pane.js";
import { buildReview } from "./review_panel.js";
import { buildScale } from "./scale.js";
import { unfinished } from "./status.js";

/** @typedef {import("./screen.js").SlideScreen} Screen */
/** @typedef {import("./api.js").Slide} Slide */
/** @typedef {import("./state.js").State} State */
/** @typedef {{element: HTMLElement, sync: (state: State) => void}} Section */

const LAYER_NAMES = Object.freeze({ classes: "Class map", probability: "Probability", uncertainty: "Uncertainty", tissue: "Tissue", coverage: "Coverage", artifacts: "Artifacts" });

/** @param {Screen} screen @returns {Section} */
export function buildPanel(screen) {
  const sections = [buildReview(screen), legend(screen), layers(screen), outlines(screen), buildLook(screen), comparison(screen), buildAssociated(screen), actions(screen)];
  const element = h("aside", { className: "panel", "aria-label": "Layers and classes" }, header(screen), ...sections.map((s) => s.element),
    h("p", { className: "notice" }, screen.slide.notice));
  return { element, sync: (state) => sections.forEach((section) => section.sync(state)) };
}

/** @param {Screen} screen */
function header(screen) {
  const { slide, progress } = screen;
  const mm = slide.mpp ? slide.size.map((length, i) => ((length * (slide.mpp ?? [0, 0])[i]) / 1000).toFixed(1)).join(" × ") + " mm · " : "";
  const mpp = slide.mpp ? `${Number(slide.mpp[0].toPrecision(4))} µm/px` : `${slide.size.join(" × ")} px`;
  return h("header", {}, buildNeighbors(screen), h("h1", { title: slide.name }, slide.name),
    h("p", { className: "facts" }, mm + mpp), slide.slide_problem && h("p", { className: "problem" }, slide.slide_problem),
    slide.unlike && h("p", { className: "problem unlike" }, slide.unlike), made(slide), progress);
}

/** Which model made it, when, and the report, which has the settings. @param {Slide} slide */
function made({ id, version, model, finished, report }) {
  if (!model) return false; // of a run that is not finished
  const when = finished && new Date(finished).toLocaleDateString("sv"); // ISO, as in the list
  return h("p", { className: "facts made" }, [model, when].filter(Boolean).join(" · "), report && " · ",
    report && h("a", { href: `api/${slidePath(id, "/report.html", version)}`, target: "_blank", rel: "noopener" }, "Report and settings"));
}

/**
 * One row for each group, with rows of its classes where there are several; then classes of no group.
 * @param {Screen} screen
 * @returns {Section}
 */
function legend(screen) {
  const { slide, other } = screen;
  const total = slide.classes.reduce((sum, entry) => sum + (entry.mm2 ?? 0), 0);
  const present = slide.classes.filter((entry) => entry.mm2 === null || entry.mm2 > 0); // null: not known yet
  /** @type {{codes: number[], box: HTMLInputElement, paint: (safe: boolean) => void}[]} */
  const rows = [];
  /** @param {string} name @param {number[]} codes @param {(safe: boolean) => string} color @param {string} className */
  const row = (name, codes, color, className) => {
    const swatch = h("span", { className: "swatch" });
    const box = h("input", { type: "checkbox", onchange: () => screen.toggle(codes, box.checked) });
    rows.push({ codes, box, paint: (safe) => paint(swatch, color(safe)) });
    const own = slide.classes.filter((entry) => codes.includes(entry.code));
    const assessed = own.some((entry) => entry.assessed), known = own.some((entry) => entry.mm2 !== null);
    if (!assessed) return h("li", { className }, h("label", {}, box, swatch, h("span", { className: "name" }, title(name))), h("span", { className: "facts" }, "not assessed"));
    const mine = areaOf(slide, codes), share = total ? ((100 * mine) / total).toFixed(0) : "";
    const only = h("button", { type: "button", className: "only", "aria-label": `Only ${title(name)}`, title: "Only this, or all again", onclick: () => screen.solo(codes) }, "only");
    return h("li", { className }, h("label", {}, box, swatch, h("span", { className: "name" }, title(name))), only,
      known && h("span", { className: "number" }, mm2(mine)),
      known && h("span", { className: "number share" }, other ? mm2(areaOf(other, codes)) : share));
  };
  const items = slide.groups.flatMap((group) => {
    const members = present.filter((entry) => group.codes.includes(entry.code));
    const inner = members.length > 1 ? members.map((entry) => row(entry.name, [entry.code], (safe) => colorOf(entry, safe), "inner")) : [];
    const missing = slide.classes.filter((entry) => group.codes.includes(entry.code) && !entry.assessed);
    const part = group.assessed && missing.length > 0 && h("li", { className: "inner facts" }, `not assessed: ${missing.map((entry) => title(entry.name)).join(", ")}`);
    return [row(group.name, group.codes, (safe) => colorOf(group, safe), "outer"), ...inner, ...(part ? [part] : [])];
  });
  const grouped = new Set(slide.groups.flatMap((group) => group.codes));
  const rest = slide.classes.filter((entry) => !grouped.has(entry.code) && (present.includes(entry) || !entry.assessed));
  items.push(...rest.map((entry) => row(entry.name, [entry.code], (safe) => colorOf(entry, safe), "outer")));
  const safe = h("input", { type: "checkbox", onchange: () => screen.update({ safe: safe.checked }) });
  const heads = h("p", { className: "heads", hidden: slide.classes.every((entry) => entry.mm2 === null) }, h("span", {}, other ? "left" : "mm²"), h("span", { className: "share" }, other ? "right" : "%"));
  return {
    element: h("section", { className: other ? "areas both" : "areas" }, h("h2", {}, other ? "Classes, mm²" : "Classes"), heads, h("ul", { className: "legend" }, ...items),
      h("p", { className: "facts", hidden: heads.hidden }, "Areas of the class map: each pixel counts for its most probable class (argmax), inside regions or not."),
      h("label", { className: "line" }, safe, "Color-blind-safe colors")),
    sync: (state) => {
      safe.checked = state.safe;
      for (const { codes, box, paint: repaint } of rows) {
        const hidden = codes.filter((code) => state.off.includes(code)).length;
        box.checked = hidden < codes.length;
        box.indeterminate = hidden > 0 && hidden < codes.length;
        repaint(state.safe);
      }
    },
  };
}

/** The number alone: its unit stands above. @param {number} area */
function mm2(area) {
  return formatMm2(area).replace(" mm²", "");
}

/** @param {Slide} slide @param {number[]} codes */
function areaOf(slide, codes) {
  return slide.classes.filter((entry) => codes.includes(entry.code)).reduce((sum, entry) => sum + (entry.mm2 ?? 0), 0);
}

/** @param {Screen} screen @returns {Section} */
function layers(screen) {
  const { slide } = screen;
  const unassessed = slide.classes.filter((entry) => !entry.assessed).map((entry) => entry.name);
  const channel = select("Probability of", slide.channels.filter((name) => name !== "uncertainty").map((name) => [name, title(name) + (unassessed.includes(name) ? " (not assessed)" : "")]),
    (value) => screen.update({ channel: value, opacity: { ...screen.state.opacity, probability: screen.state.opacity.probability || 0.6 } }));
  const known = Object.entries(LAYER_NAMES).filter(([name]) => slide.layers.includes(name) && (name !== "coverage" || hasFaults(slide)));
  const ranges = known.map(([name, text]) => {
    const shown = h("output", {});
    const range = h("input", { type: "range", min: "0", max: "100", step: "1", "aria-label": `${text} opacity`,
      oninput: () => screen.update({ opacity: { ...screen.state.opacity, [name]: Number(range.value) / 100 } }) });
    return { name, range, shown, row: h("label", { className: "slider" }, h("span", { className: "name" }, text), range, shown) };
  });
  const artifacts = swatches(slide.artifacts);
  const scales = ["probability", "uncertainty"].map((name) => ({ name, ...buildScale(slide, name) }));
  const below = [{ name: "probability", element: channel.element }, ...scales, { name: "coverage", element: swatches(slide.coverage.legend).element }, { name: "artifacts", element: artifacts.element }];
  const rows = ranges.flatMap(({ name, row }) => [row, ...below.filter((one) => one.name === name).map((one) => one.element)]);
  return {
    element: h("section", {}, h("h2", {}, "Layers"), ...rows),
    sync: (state) => {
      channel.input.value = state.channel ?? slide.channels[0];
      artifacts.repaint(state.safe);
      for (const scale of scales) scale.sync(state);
      for (const { name, range, shown } of ranges) {
        const percent = Math.round(100 * (state.opacity[name] ?? 0));
        range.value = String(percent);
        shown.textContent = percent ? `${percent} %` : "off";
      }
    },
  };
}

/**
 * The colors of a layer with their areas: artifacts, or tissue that was not read as it should.
 * @param {{name: string, color: string, safe_color?: string, mm2: number | null}[]} entries
 */
function swatches(entries) {
  const rows = entries.map(({ name, color, safe_color: safeColor, mm2: area }) => {
    const swatch = h("span", { className: "swatch" });
    paint(swatch, color);
    const row = h("li", { className: "inner" }, h("label", {}, swatch, h("span", { className: "name" }, title(name))), area !== null && h("span", { className: "number" }, mm2(area)));
    return { row, repaint: (/** @type {boolean} */ safe) => paint(swatch, (safe && safeColor) || color) };
  });
  return {
    element: h("ul", { className: "legend" }, ...rows.map(({ row }) => row)),
    repaint: (/** @type {boolean} */ safe) => rows.forEach((one) => one.repaint(safe)),
  };
}

/** @param {Screen} screen @returns {Section} */
function outlines(screen) {
  const { slide } = screen;
  const show = h("input", { type: "checkbox", onchange: () => screen.update({ outlines: show.checked }) });
  const range = h("input", { type: "range", min: "0.05", max: "0.95", step: "0.01", "aria-label": "Probability threshold of outlines",
    oninput: () => screen.update({ threshold: Number(range.value), of: of.input.value, outlines: true }) });
  const shown = h("output", {});
  const stored = slide.groups.filter((group) => group.stored); // others have no other threshold than that of the run
  const of = select("Threshold of", stored.map((group) => [group.name, title(group.name)]),
    (value) => screen.update({ of: value, threshold: screen.state.threshold ?? slide.threshold ?? 0.5 }));
  const reset = h("button", { type: "button", className: "small", onclick: () => screen.update({ threshold: null, of: null }) }, "As the run traced them");
  const table = h("button", { type: "button", className: "small", "aria-label": "Table of regions (T)", title: "Table of regions (T)", onclick: () => screen.table.toggle() }, "Table");
  return {
    element: h("section", { hidden: slide.groups.length === 0 }, h("h2", {}, "Outlines"),
      h("div", { className: "line" }, h("label", { className: "line" }, show, `Regions (${slide.regions.toLocaleString("en")})`), table),
      ...(stored.length ? [h("label", { className: "slider" }, h("span", { className: "name" }, "Threshold"), range, shown), of.element, reset] : [])),
    sync: (state) => {
      show.checked = state.outlines;
      table.setAttribute("aria-pressed", String(state.table !== null));
      range.value = String(state.threshold ?? slide.threshold ?? 0.5);
      shown.textContent = state.threshold === null ? "as run" : state.threshold.toFixed(2);
      of.input.value = state.of ?? stored[0]?.name ?? "";
      reset.disabled = state.threshold === null;
    },
  };
}

/**
 * Other results of this slide are looked for once it is shown: that may take the server a moment.
 * @param {Screen} screen
 * @returns {Section}
 */
function comparison(screen) {
  const { slide, other } = screen;
  const pick = select("Compare with", [["", "—"], ...(other ? [option(other)] : [])], (value) => screen.go({ ...screen.state, other: value || null }));
  const element = h("section", { hidden: !other }, h("h2", {}, "Side by side"), pick.element);
  const fill = (/** @type {import("./api.js").Place[]} */ same) => {
    pick.setOptions([["", "—"], ...same.map(option)]);
    pick.input.value = screen.state.other ?? "";
    element.hidden = same.length === 0;
  };
  api(slidePath(slide.id, "/same", slide.version)).then(fill, () => {}); // replaced or gone: the screen says so itself
  return { element, sync: (state) => { pick.input.value = state.other ?? ""; } };
}

/** @param {import("./api.js").Place} place @returns {[string, string]} */
function option(place) {
  return [place.id, placeOf(place)];
}

/** A result's name with its folder, to tell runs of one slide apart. @param {{folder: string, name: string}} row */
export function placeOf({ folder, name }) {
  return folder ? `${folder} / ${name}` : name;
}

/** @param {Screen} screen @returns {Section} */
function actions(screen) {
  const { slide } = screen;
  const button = (/** @type {string} */ text, /** @type {() => void} */ onclick) => h("button", { type: "button", onclick }, text);
  const file = (/** @type {string} */ query) => `api/${slidePath(slide.id, `/polygons.geojson${query}`, slide.version)}`;
  const asRun = h("a", { className: "button", href: file(""), download: "" });
  const shown = h("a", { className: "button", download: "" }); // at the threshold of the slider
  return {
    element: h("section", { className: "actions" }, button("Picture", () => void screen.savePicture()), !unfinished(slide.status) && asRun,
      !unfinished(slide.status) && shown, button("Copy link", () => void screen.copyLink()), button("Keys", () => screen.help.showModal())),
    sync: ({ threshold, of }) => {
      const channel = of ?? slide.groups.find((group) => group.stored)?.name ?? "";
      shown.hidden = threshold === null;
      asRun.textContent = threshold === null ? "GeoJSON" : "GeoJSON as run";
      if (threshold === null) return;
      shown.href = file(`?${new URLSearchParams({ channel, threshold: String(threshold) })}`);
      shown.textContent = `GeoJSON ${title(channel)} ≥ ${threshold.toFixed(2)}`;
    },
  };
}

/**
 * @param {string} label
 * @param {[string, string][]} options
 * @param {(value: string) => void} onPick
 */
function select(label, options, onPick) {
  const input = h("select", { onchange: () => onPick(input.value) });
  const setOptions = (/** @type {[string, string][]} */ now) => input.replaceChildren(...now.map(([value, text]) => h("option", { value }, text)));
  setOptions(options);
  return { input, setOptions, element: h("label", { className: "pick" }, h("span", {}, label), input) };
}
