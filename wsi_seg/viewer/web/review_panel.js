// The review in the panel: reviewer, progress, queue, verdicts and drawing; every action is a named button.

import { title } from "./api.js";
import { h } from "./dom.js";
import { colorOf } from "./palette.js";
import { paint } from "./pane.js";

/** @typedef {import("./screen.js").SlideScreen} Screen */
/** @typedef {import("./review_screen.js").ReviewScreen} ReviewScreen */
/** @typedef {import("./review_tools.js").Tool} Tool */

/** @type {[Tool, string, string][]} tool, name, key */
export const TOOLS = [
  ["polygon", "Polygon", "d"], ["freehand", "Freehand", "f"], ["brush", "Brush", "b"], ["eraser", "Eraser", "e"],
  ["split", "Split", "s"], ["corners", "Corners", "v"], ["box", "Reviewed box", "w"],
];
const ORDERS = [["uncertainty", "uncertain first"], ["threshold", "near the threshold"], ["size", "largest first"], ["class", "by class"]];

/**
 * Build the section; it is empty until the review is there.
 * @param {Screen} screen
 * @returns {{element: HTMLElement, sync: () => void}}
 */
export function buildReview(screen) {
  const element = h("section", { className: "review", hidden: true, "aria-label": "Review" });
  /** @type {(() => void)[]} */
  let syncs = [];
  const sync = () => {
    const { reviewing } = screen;
    if (!reviewing) return;
    if (!syncs.length) {
      const parts = [who(reviewing), queue(reviewing), verdicts(reviewing), drawing(reviewing)];
      element.replaceChildren(h("h2", {}, "Review"), ...parts.map((part) => part.element));
      element.hidden = false;
      syncs = parts.map((part) => part.sync);
    }
    syncs.forEach((each) => each());
  };
  return { element, sync };
}

/**
 * @param {string} text
 * @param {string} label for screen readers, with the key
 * @param {() => void} onclick
 */
function button(text, label, onclick) {
  return h("button", { type: "button", "aria-label": label, title: label, onclick }, text);
}

/** @param {ReviewScreen} reviewing */
function who(reviewing) {
  const name = h("input", { type: "text", id: "reviewer", maxLength: 100, autocomplete: "name", oninput: () => reviewing.review.setReviewer(name.value) });
  const bar = h("progress", { "aria-label": "Regions reviewed" });
  const count = h("p", { className: "facts", role: "status" });
  return {
    element: h("div", { className: "part" }, h("label", { className: "pick" }, h("span", {}, "Reviewer"), name), bar, count,
      reviewing.screen.other && h("p", { className: "facts" }, "The results on the left are reviewed; those on the right are shown beside them."), reviewing.screen.retrain?.button()),
    sync: () => {
      const { progress, areas, reviewer } = reviewing.review;
      if (document.activeElement !== name) name.value = reviewer;
      bar.max = Math.max(1, progress.regions);
      bar.value = progress.reviewed;
      const more = [areas.length && `${areas.length} reviewed area${areas.length > 1 ? "s" : ""}`, progress.disputed && `${progress.disputed} disputed`,
        progress.not_carried && `${progress.not_carried} verdicts on other results fit no region here`];
      count.textContent = [`${progress.reviewed.toLocaleString("en")} of ${progress.regions.toLocaleString("en")} reviewed`, ...more.filter(Boolean)].join(", ");
    },
  };
}

/** @param {ReviewScreen} reviewing */
function queue(reviewing) {
  const { groups } = reviewing.screen.slide;
  const order = pick("Queue", ORDERS, (value) => { reviewing.queue.order = value; });
  const group = pick("Class", [["", "all classes"], ...groups.filter((g) => g.traced).map((g) => [g.name, title(g.name)])], (value) => { reviewing.queue.group = value; });
  const all = h("input", { type: "checkbox", onchange: () => { reviewing.queue.all = all.checked; } });
  const place = h("span", { className: "facts" });
  return {
    element: h("div", { className: "part" }, order, group, h("label", { className: "line" }, all, "Reviewed ones too"),
      h("div", { className: "buttons" }, button("‹ Previous", "Previous region in the queue (p)", () => void reviewing.next(-1)),
        button("Next ›", "Next region in the queue (n)", () => void reviewing.next(1)), place)),
    sync: () => { place.textContent = reviewing.place ? `${reviewing.place.place?.toLocaleString("en")} of ${reviewing.place.total.toLocaleString("en")}` : ""; },
  };
}

/** @param {ReviewScreen} reviewing */
function verdicts(reviewing) {
  const { groups } = reviewing.screen.slide;
  const now = h("p", { className: "said", role: "status" });
  const comment = h("input", { type: "text", id: "comment", maxLength: 2000, oninput: () => { reviewing.comment = comment.value; } });
  const swatches = groups.map(() => h("span", { className: "swatch" }));
  const classes = groups.map((group, i) => {
    const key = i < 9 ? ` (${i + 1})` : "";
    const made = button("", `Class ${title(group.name)}${key}`, () => reviewing.label(i));
    made.replaceChildren(swatches[i], `${i < 9 ? `${i + 1} ` : ""}${title(group.name)}`);
    return made;
  });
  return {
    element: h("div", { className: "part" }, now,
      h("div", { className: "buttons" }, button("✓ Accept", "Accept the region (a)", () => void reviewing.give("accepted")),
        button("✕ Reject", "Reject the region (x)", () => void reviewing.give("rejected")),
        button("↶", "Undo (u)", () => reviewing.undo()), button("↷", "Redo (y)", () => reviewing.redo()),
        button("Take back", "Take back the verdict on the region, or the reviewed area in the middle of the view (Delete)", () => void reviewing.takeBack())),
      h("div", { className: "buttons classes", role: "group", "aria-label": "Class of the region, or of what is drawn" }, ...classes),
      h("label", { className: "pick" }, h("span", {}, "Comment"), comment)),
    sync: () => {
      const text = reviewing.describe();
      if (now.textContent !== text) now.textContent = text;
      if (document.activeElement !== comment) comment.value = reviewing.comment;
      groups.forEach((group, i) => {
        paint(swatches[i], colorOf(group, reviewing.screen.state.safe));
        classes[i].setAttribute("aria-pressed", String(reviewing.className === group.name));
      });
    },
  };
}

/** @param {ReviewScreen} reviewing */
function drawing(reviewing) {
  const tools = TOOLS.map(([tool, name, key]) => button(name, `${name} (${key})`, () => reviewing.use(tool)));
  const size = h("input", { type: "range", min: "4", max: "120", value: String(reviewing.tools.brush), "aria-label": "Radius of the brush, screen pixels", oninput: () => { reviewing.tools.brush = Number(size.value); } });
  const hole = h("input", { type: "checkbox", onchange: () => { reviewing.hole = hole.checked; } });
  const rest = h("input", { type: "checkbox", checked: true, onchange: () => { reviewing.acceptRest = rest.checked; } });
  const save = button("Save outline", "Save the outline (Enter)", () => reviewing.save());
  const drop = button("Drop", "Drop what is drawn, and the selection (Escape)", () => reviewing.clear());
  return {
    element: h("div", { className: "part" },
      h("div", { className: "buttons", role: "group", "aria-label": "Drawing tools" }, ...tools),
      h("label", { className: "line" }, h("span", {}, "Brush"), size),
      h("label", { className: "line" }, hole, "Polygon and freehand cut holes"),
      h("div", { className: "buttons" }, save, drop, button("Merge", "Merge the region in the middle of the view into the selected one (m)", () => reviewing.merge())),
      h("div", { className: "buttons" }, button("All in sight is reviewed", "All in sight is reviewed (g)", () => reviewing.markView())),
      h("label", { className: "line" }, rest, "…and accept regions there without a verdict")),
    sync: () => {
      tools.forEach((made, i) => made.setAttribute("aria-pressed", String(reviewing.tools.tool === TOOLS[i][0])));
      save.disabled = !reviewing.drawing;
    },
  };
}

/** @param {string} label @param {string[][]} options values and texts @param {(value: string) => void} onchange */
function pick(label, options, onchange) {
  const input = h("select", { onchange: () => onchange(input.value) }, ...options.map(([value, text]) => h("option", { value }, text)));
  return h("label", { className: "pick" }, h("span", {}, label), input);
}
