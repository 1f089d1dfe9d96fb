// All regions of a slide in a table next to it; the server filters and sorts them, a page at a time.

import { api, slidePath, title } from "./api.js";
import { debounce, h, say } from "./dom.js";
import { formatArea } from "./geometry.js";
import { colorOf } from "./palette.js";
import { paint } from "./pane.js";
import { TABLE, writeChanged } from "./state.js";

/** @typedef {import("./screen.js").SlideScreen} Screen */
/** @typedef {import("./state.js").RegionQuery} RegionQuery */
/** @typedef {import("./api.js").RegionRow} RegionRow */

const PAGE = 100;
/** Column, heading, and the direction in which it is sorted first. */
const COLUMNS = Object.freeze([["number", "No.", ""], ["class", "Class", ""], ["area", "Area", "-"], ["probability", "Prob.", "-"], ["uncertainty", "Uncert.", "-"]]);
const SPOKEN = Object.freeze({ number: "number", class: "class", area: "area", probability: "mean probability", uncertainty: "mean uncertainty" });
/** Keys that move in the table, or press the button of a row. */
export const ROW_KEYS = Object.freeze(["ArrowUp", "ArrowDown", "Home", "End", "Enter", " "]);

export class RegionTable {
  /** @param {Screen} screen */
  constructor(screen) {
    this.screen = screen;
    /** @type {RegionQuery} */
    this.query = { ...TABLE }; // as it was last shown
    this.shown = "";
    /** @type {Map<number, HTMLTableRowElement>} by number of the region */
    this.rows = new Map();
    this.total = 0;
    const { slide } = screen;
    this.columns = COLUMNS.filter(([name]) => name !== "uncertainty" || slide.layers.includes(name));
    this.heads = this.columns.map(([name, text, first]) => h("th", { scope: "col" }, h("button", { type: "button", "aria-label": `Sort by ${SPOKEN[/** @type {keyof typeof SPOKEN} */ (name)]}`,
      onclick: () => this.change({ sort: this.query.sort === first + name ? (first ? name : `-${name}`) : first + name }) }, text)));
    this.body = h("tbody", { onkeydown: (/** @type {KeyboardEvent} */ event) => this.onKey(event) });
    const groups = slide.groups.filter((group) => group.traced);
    this.group = h("select", { "aria-label": "Class of the regions", onchange: () => this.change({ group: this.group.value }) },
      h("option", { value: "" }, "All classes"), ...groups.map((group) => h("option", { value: group.name }, title(group.name))));
    const least = debounce(250, () => this.change({ area: Math.max(0, Number(this.area.value) || 0) }));
    this.area = h("input", { type: "number", min: "0", step: "any", placeholder: "0", "aria-label": "Least area, µm²", oninput: least });
    this.range = h("span", { role: "status", className: "facts" });
    this.pages = ["‹", "›"].map((text, i) => h("button", { type: "button", className: "small", "aria-label": i ? "Next page of regions" : "Previous page of regions",
      onclick: () => this.change({ from: Math.max(0, this.query.from + (i ? PAGE : -PAGE)) }) }, text));
    this.element = h("aside", { className: "regions", "aria-label": "Table of regions", hidden: true },
      h("header", { className: "line" }, h("h2", {}, "Regions, as the run traced them"), h("button", { type: "button", className: "small", "aria-label": "Close the table (T)", onclick: () => this.toggle() }, "✕")),
      h("div", { className: "line" }, this.group, h("label", { className: "line facts" }, "≥", this.area, "µm²")),
      h("div", { className: "line" }, this.range, ...this.pages),
      h("div", { className: "rows" }, h("table", {}, h("thead", {}, h("tr", {}, ...this.heads)), this.body)));
  }

  /** Open or close the table; a region stays marked as long as it is open. */
  toggle() {
    this.screen.update(this.screen.state.table ? { table: null, marked: null } : { table: { ...this.query } });
  }

  /** @param {Partial<RegionQuery>} change */
  change(change) {
    this.screen.update({ table: { ...this.query, from: 0, ...change } });
  }

  /** @param {import("./state.js").State} state */
  sync({ table, marked, safe }) {
    this.element.hidden = table === null;
    this.screen.root.classList.toggle("tabled", table !== null);
    if (!table) return;
    this.query = table;
    const wanted = JSON.stringify([table, safe]);
    if (wanted !== this.shown) {
      this.shown = wanted;
      void this.load();
    }
    this.mark(marked);
  }

  /** @param {number | null} marked */
  mark(marked) {
    for (const [index, row] of this.rows) {
      const is = index === marked;
      if (is && row.ariaCurrent !== "true") row.scrollIntoView({ block: "nearest" });
      row.ariaCurrent = is ? "true" : null;
    }
    const [first] = this.rows.keys(), stop = marked !== null && this.rows.has(marked) ? marked : first;
    for (const [index, row] of this.rows) buttonOf(row).tabIndex = index === stop ? 0 : -1; // one stop of the tab key for all rows
  }

  async load() {
    const wanted = this.shown, { query } = this;
    try {
      const { rows, total } = await this.ask(query);
      if (this.screen.left || wanted !== this.shown) return; // asked for something else since
      if (!rows.length && query.from) return this.change({ from: 0 });
      this.fill(rows, total);
    } catch (error) {
      say(error instanceof Error ? error.message : String(error));
    }
  }

  /** @param {RegionQuery} query @param {number} [limit] @returns {Promise<{rows: RegionRow[], total: number}>} */
  ask({ from, ...wanted }, limit = PAGE) {
    const { id, version } = this.screen.slide;
    return api(slidePath(id, `/regions/list?${new URLSearchParams({ offset: String(from), limit: String(limit) })}&${queryOf(wanted)}`, version));
  }

  /** @param {RegionRow[]} rows @param {number} total */
  fill(rows, total) {
    const { query, screen } = this, count = (/** @type {number} */ value) => value.toLocaleString("en");
    const hadFocus = this.body.contains(document.activeElement);
    this.rows = new Map(rows.map((row) => [row.index, this.row(row)]));
    this.body.replaceChildren(...this.rows.values());
    this.range.textContent = total ? `${count(query.from + 1)}–${count(query.from + rows.length)} of ${count(total)}` : screen.slide.regions ? "No region fits; change the filters." : "No regions yet.";
    this.pages[0].disabled = query.from === 0;
    this.pages[1].disabled = query.from + rows.length >= total;
    this.heads.forEach((head, i) => {
      const [name] = this.columns[i];
      head.ariaSort = query.sort.replace("-", "") !== name ? "none" : query.sort.startsWith("-") ? "descending" : "ascending";
    });
    this.group.value = query.group;
    if (document.activeElement !== this.area) this.area.value = query.area ? String(query.area) : "";
    this.mark(screen.state.marked);
    if (hadFocus) this.body.querySelector("button")?.focus();
  }

  /** @param {RegionRow} row */
  row({ index, group: name, area_um2: area, mean_probability: probability, mean_uncertainty: uncertainty }) {
    const group = this.screen.slide.groups.find((one) => one.name === name), swatch = h("span", { className: "swatch" });
    if (group) paint(swatch, colorOf(group, this.screen.state.safe));
    const percent = (/** @type {number | undefined} */ value) => (value === undefined ? "–" : `${(100 * value).toFixed(0)} %`);
    const cells = [area === undefined ? "–" : formatArea(area), percent(probability), percent(uncertainty)].slice(0, this.columns.length - 2);
    const label = `Region ${index + 1}, ${title(name)}, ${cells[0]}, probability ${cells[1]}: go there`;
    return h("tr", { onclick: () => void this.goTo(index) }, h("td", {}, h("button", { type: "button", "aria-label": label }, String(index + 1))),
      h("td", {}, h("span", { className: "line" }, swatch, title(name))), ...cells.map((text) => h("td", { className: "number" }, text)));
  }

  /** @param {KeyboardEvent} event of the button of a row */
  onKey(event) {
    const buttons = [...this.rows.values()].map(buttonOf), at = buttons.findIndex((button) => button === event.target);
    const to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    buttons[Math.max(0, Math.min(to, buttons.length - 1))].focus();
  }

  /**
   * Show a region and mark it, whatever is hidden; under review, select it.
   * @param {number} index from 0
   * @param {number} [from] page of the table on which it is
   */
  async goTo(index, from = this.query.from) {
    const { screen } = this, [pane] = screen.panes;
    try {
      const { group, bbox } = await pane.facts(index);
      if (screen.left) return;
      const codes = screen.slide.groups.find((one) => one.name === group)?.codes ?? [];
      const { off, table } = screen.state;
      const hidden = codes.every((code) => off.includes(code));
      screen.leader = pane;
      screen.update({ marked: index, outlines: true, off: hidden ? off.filter((code) => !codes.includes(code)) : off, table: table && { ...table, from } });
      pane.moveToBox(bbox);
      const { reviewing } = screen;
      if (reviewing && !reviewing.drawing) void reviewing.attempt(() => reviewing.select({ index }, group));
      else say(`Region ${index + 1}, ${title(group)}.`);
    } catch (error) {
      say(error instanceof Error ? error.message : String(error));
    }
  }

  /** Go on from the region that is marked; without one, to the first of the table. @param {"next" | "previous"} which */
  async step(which) {
    const { slide, state } = this.screen, { query } = this;
    try {
      /** @type {import("./neighbors.js").Place<number> | null} */
      const place = state.marked === null ? null : await api(slidePath(slide.id, `/regions/${state.marked}/neighbors?${queryOf(query)}`, slide.version));
      if (!place?.position) {
        const [first] = (await this.ask({ ...query, from: 0 }, 1)).rows;
        return first ? await this.goTo(first.index, 0) : say("The table holds no region.");
      }
      const index = place[which], at = place.position - (which === "next" ? 0 : 2); // from 0
      if (index === null) return say(which === "next" ? "This is the last region of the table." : "This is the first region of the table.");
      await this.goTo(index, at - (at % PAGE));
    } catch (error) {
      say(error instanceof Error ? error.message : String(error));
    }
  }
}

/** @param {HTMLTableRowElement} row */
function buttonOf(row) {
  return /** @type {HTMLButtonElement} */ (row.querySelector("button"));
}

/** @param {Omit<RegionQuery, "from">} query @returns {string} what the server is asked for */
function queryOf({ group, area, sort }) {
  return writeChanged({ group, area, sort, from: 0 }, TABLE);
}
