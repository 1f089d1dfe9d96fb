// Reviewing on the screen: what is selected, what is drawn, and every action, whether by key, button or mouse.

import { title } from "./api.js";
import { say } from "./dom.js";
import { Review, covers } from "./review.js";
import { ReviewMarks } from "./review_marks.js";
import { Tools } from "./review_tools.js";

/** @typedef {import("./screen.js").SlideScreen} Screen */
/** @typedef {import("./review.js").Geometry} Geometry */
/** @typedef {import("./review.js").Target} Target */
/** @typedef {import("./review_tools.js").Tool} Tool */
/** @typedef {{target: Target, group: string, outline: Geometry}} Selected */
/** @typedef {{geometry: Geometry | null, parts: Geometry[]}} Drawn */

const UNSAVED = "The outline is not saved: Enter saves it, Escape drops it.";
const MOST_STEPS = 20; // of drawing, that can be undone

export class ReviewScreen {
  /** @param {Screen} screen its first pane is reviewed @param {() => void} onChange */
  constructor(screen, onChange) {
    this.screen = screen;
    this.pane = screen.panes[0];
    this.onChange = () => { this.draw(); onChange(); };
    this.review = new Review(screen.slide, () => this.onChange());
    this.marks = new ReviewMarks(this.pane.viewer.canvas);
    this.tools = new Tools(this.pane, {
      onDraft: () => this.draw(),
      onMove: () => this.remember(structuredClone(this.tools.draft.geometry)), // which is changed where it is
      onStroke: (action, line, radius) => void this.attempt(() => this.stroke(action, line, radius)),
      onShape: (geometry) => void this.attempt(() => this.closed(geometry)),
    });
    /** @type {Selected | null} */
    this.selected = null;
    /** @type {Geometry[]} the other parts of a region that was split */
    this.parts = [];
    /** @type {Drawn[]} the outline before each step of drawing it, and after those that were undone */
    this.before = [];
    /** @type {Drawn[]} */
    this.after = [];
    this.className = screen.slide.groups[0]?.name ?? "";
    this.comment = "";
    this.queue = { order: "uncertainty", group: "", all: false };
    /** @type {import("./review.js").Next | null} */
    this.place = null;
    this.acceptRest = true;
    /** @type {Promise<void>} what was asked for last */
    this.last = Promise.resolve();
    this.waiting = 0;
    this.pane.viewer.addHandler("update-viewport", () => this.draw());
    void this.attempt(() => this.review.load());
  }

  draw() {
    if (this.screen.closed || !this.pane.viewer.isOpen()) return; // an answer may come early, or late
    this.marks.draw(this.pane.view(), { review: this.review, selected: this.selected?.outline ?? null, draft: this.tools.draft, hidden: !this.screen.state.outlines, aims: this.tools.tool !== null });
  }

  /**
   * Do something that may fail after all that was asked for before, and say why it did: quick fingers lose nothing.
   * @param {() => Promise<unknown>} action
   */
  attempt(action) {
    this.waiting++;
    this.last = this.last.then(action).catch((error) => say(error instanceof Error ? error.message : String(error))).then(() => {
      this.waiting--;
      this.onChange();
    });
    return this.last;
  }

  /** Whether an action is under way. */
  get busy() {
    return this.waiting > 0;
  }

  // --- selecting ---

  /** @param {[number, number]} at l0 @returns {Promise<void>} */
  async selectAt([x, y]) {
    const drawn = this.review.drawn.find((one) => one.geometry && one.verdict !== "rejected" && covers(one.geometry, x, y));
    if (drawn) return this.select({ region: drawn.region }, drawn.class_name ?? "");
    const found = await this.pane.outlines.find(x, y);
    if (found && found.source === 0) await this.select({ index: found.index }, found.group);
    else this.clear();
  }

  /** @param {Target} target @param {string} group */
  async select(target, group) {
    this.refuseUnsaved();
    const outline = await this.review.outline(target);
    this.forget();
    this.selected = { target, group, outline };
    this.tools.choose(null);
    this.comment = this.said?.comment ?? "";
    say(this.describe());
  }

  clear() {
    this.selected = null;
    this.comment = "";
    this.forget();
    this.tools.choose(null);
    this.onChange();
  }

  /** Drop what is drawn. */
  forget() {
    this.parts = [];
    this.before = [];
    this.after = [];
    this.tools.setGeometry(null);
  }

  /** Throw where something is drawn that would be lost. */
  refuseUnsaved() {
    if (this.unsaved) throw new Error(UNSAVED);
  }

  /** What was said of the selected region. */
  get said() {
    const target = this.selected?.target;
    if (!target) return null;
    return ("index" in target ? this.review.verdicts.get(target.index) : this.review.drawn.find((one) => one.region === target.region)) ?? null;
  }

  /** The selected region in words. */
  describe() {
    if (!this.selected) return "No region is selected.";
    const { target, group } = this.selected, said = this.said;
    const name = "index" in target ? `Region ${target.index + 1}, ${title(group)}` : `Added region, ${title(group)}`;
    if (!said) return `${name}: no verdict yet.`;
    const named = said.class_name && said.verdict !== "accepted" ? ` as ${title(said.class_name)}` : "";
    return `${name}: ${said.verdict}${named} by ${said.reviewer}${said.disputed ? ", disputed" : ""}${said.comment ? ` (${said.comment})` : ""}.`;
  }

  // --- verdicts ---

  /** What is stored together is undone together. @param {...Record<string, unknown>} verdicts */
  async store(...verdicts) {
    if (!this.review.reviewer) {
      document.getElementById("reviewer")?.focus();
      throw new Error("Type your name first: it stands at each verdict.");
    }
    await this.review.add(...verdicts);
  }

  /** @param {"accepted" | "rejected" | "relabeled"} verdict @param {string} [class_name] */
  async judge(verdict, class_name) {
    if (!this.selected) throw new Error("Select a region first: click it, or press n for the next one.");
    this.refuseUnsaved();
    const { target, group } = this.selected;
    await this.store({ verdict, comment: this.comment, ...target, ...(class_name && { class_name }) });
    say(this.describe());
    if (class_name && !("index" in target)) this.selected.group = class_name ?? group;
  }

  /** @param {"accepted" | "rejected"} verdict */
  give(verdict) {
    return this.attempt(() => this.judge(verdict));
  }

  /** Another class for what is selected, or the class of what is drawn. @param {number} number of the group, from 0 */
  label(number) {
    const group = this.screen.slide.groups[number];
    if (!group) return;
    this.className = group.name;
    if (this.tools.draft.geometry || !this.selected) {
      say(`What you draw is ${title(group.name)}.`);
      this.onChange();
      return;
    }
    const { target, group: was } = this.selected;
    const same = "index" in target && group.name === was && this.said?.verdict !== "redrawn";
    void this.attempt(() => (same ? this.judge("accepted") : this.judge("relabeled", group.name)));
  }

  /** Take the last step of drawing back, or where nothing is drawn the last action. */
  undo() {
    void this.attempt(async () => {
      if (this.tools.draft.line.length) return this.tools.removePoint();
      if (this.drawing) return this.step(this.before, this.after);
      say((await this.review.undo()) ? "Taken back." : "There is nothing to take back.");
    });
  }

  redo() {
    void this.attempt(async () => {
      if (this.drawing || this.after.length) return this.step(this.after, this.before);
      say((await this.review.redo()) ? "Done again." : "There is nothing to do again.");
    });
  }

  /** Take back what the reviewer said of the selected region, or without one the reviewed area in the middle. */
  takeBack() {
    return this.attempt(async () => {
      this.refuseUnsaved();
      if (this.selected) {
        const said = this.said;
        if (!said) throw new Error("This region has no verdict.");
        await this.review.takeBack([said.entry]);
        const { target, group } = this.selected;
        if (this.said || "index" in target) return this.select(target, group); // as it was before
        this.clear();
        return say("The added region is taken back.");
      }
      const [x, y] = this.pane.at();
      const area = this.review.areas.filter((one) => covers(one.geometry, x, y)).at(-1);
      if (!area) throw new Error("Select a region, or move a reviewed area into the middle of the view.");
      await this.review.takeBack([area.entry]);
      say("The reviewed area is taken back; verdicts on regions in it stay.");
    });
  }

  // --- the queue ---

  /** @param {1 | -1} step */
  next(step) {
    return this.attempt(async () => {
      this.refuseUnsaved();
      const target = this.selected?.target;
      const after = target && "index" in target ? target.index : null;
      const onward = await this.review.next(this.queue, after, step);
      const found = onward.index === null && after !== null ? await this.review.next(this.queue, null, step) : onward; // around the end
      if (found.index === null || !found.bbox) return say("Every region of the queue has a verdict.");
      this.place = found;
      this.pane.moveToBox(found.bbox);
      const facts = await this.pane.facts(found.index);
      await this.select({ index: found.index }, facts.group);
    });
  }

  // --- drawing ---

  /** @param {Tool} tool */
  use(tool) {
    if (this.tools.tool === tool) return this.tools.choose(null);
    if (tool === "box" && this.unsaved) return say(UNSAVED);
    const { measure } = this.screen;
    if (measure.tool) measure.use(measure.tool); // one tool at a time
    const edits = ["brush", "eraser", "split", "corners"].includes(tool);
    if (edits && this.selected && !this.tools.draft.geometry) this.tools.setGeometry(structuredClone(this.selected.outline));
    if (["eraser", "split", "corners"].includes(tool) && !this.tools.draft.geometry) return say("Select a region first, or draw one.");
    if (this.selected && (tool === "box" || ((tool === "polygon" || tool === "freehand") && !this.tools.draft.geometry))) this.clear();
    this.tools.choose(tool);
    this.onChange();
  }

  /** @param {"add" | "erase" | "split"} action @param {number[][]} line @param {number} radius l0 */
  async stroke(action, line, radius) {
    const parts = await this.review.edit({ action, geometry: this.tools.draft.geometry, line, ...(radius && { radius }) });
    this.remember();
    this.parts = parts.slice(1);
    this.tools.setGeometry(parts[0]);
    if (this.parts.length) say(`Split into ${parts.length} parts; save keeps all of them.`);
  }

  /** What a tool has closed: a reviewed area, a new region, or with the eraser's key a hole. @param {Geometry} geometry */
  async closed(geometry) {
    if (this.tools.tool === "box") return this.markReviewed(geometry);
    const before = this.tools.draft.geometry;
    const [whole] = await this.review.edit({ action: this.hole && before ? "erase" : "add", geometry: before, other: geometry });
    this.remember();
    this.tools.setGeometry(whole);
    say("Enter saves the outline, Escape drops it.");
  }

  /** Keep the outline as it is before it changes. @param {Geometry | null} [geometry] */
  remember(geometry = this.tools.draft.geometry) {
    this.before = [...this.before, { geometry, parts: this.parts }].slice(-MOST_STEPS);
    this.after = [];
  }

  /** Go back or on by one step of drawing. @param {Drawn[]} from @param {Drawn[]} to */
  step(from, to) {
    const drawn = from.pop();
    if (!drawn) return say("There is no other step of drawing; Escape drops the outline.");
    to.push({ geometry: this.tools.draft.geometry, parts: this.parts });
    this.parts = drawn.parts;
    this.tools.setGeometry(drawn.geometry);
  }

  hole = false; // closed lines cut a hole instead of adding

  /** @param {Geometry} geometry */
  async markReviewed(geometry) {
    await this.store({ verdict: "reviewed-area", geometry, accept_rest: this.acceptRest, comment: this.comment });
    this.tools.choose(null);
    say("Marked as reviewed: what is not marked in it is background.");
  }

  /** All that is in sight was looked at. */
  markView() {
    const { x, y, scale, width, height } = this.pane.view();
    const [right, bottom] = [x + width * scale, y + height * scale];
    void this.attempt(() => this.markReviewed({ type: "Polygon", coordinates: [[[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]] }));
  }

  /** Close the line that is drawn, or store the outline. */
  save() {
    if (this.tools.finish()) return;
    void this.attempt(async () => {
      const geometry = this.tools.draft.geometry; // with strokes that were under way when it was asked for
      if (!geometry) return;
      const target = this.selected?.target;
      const class_name = this.said?.class_name || this.selected?.group || this.className; // as it was relabeled
      const whole = target ? { verdict: "redrawn", ...target } : { verdict: "added", class_name: this.className };
      await this.store({ ...whole, geometry, comment: this.comment }, ...this.parts.map((part) => ({ verdict: "added", geometry: part, class_name })));
      this.clear();
      say("The outline is stored.");
    });
  }

  /** Add the region in the middle of the view to what is edited. */
  merge() {
    void this.attempt(async () => {
      const selected = this.selected, [x, y] = this.pane.at();
      const found = await this.pane.outlines.find(x, y);
      if (!selected || !found || found.source !== 0) throw new Error("Select a region, then move another one into the middle of the view.");
      if ("index" in selected.target && selected.target.index === found.index) throw new Error("The region in the middle is the selected one.");
      const other = await this.review.outline({ index: found.index });
      const [whole] = await this.review.edit({ action: "add", geometry: this.tools.draft.geometry ?? selected.outline, other });
      await this.store({ verdict: "redrawn", ...selected.target, geometry: whole, comment: this.comment }, { verdict: "rejected", index: found.index, comment: "merged" });
      this.clear();
      say("Both regions are one.");
    });
  }

  /** Whether a place may be left by a click: nothing is drawn that would be lost. */
  get drawing() {
    const { geometry, line } = this.tools.draft;
    return geometry !== null || line.length > 0;
  }

  /** Whether something is drawn that is not as it was stored. */
  get unsaved() {
    return this.before.length > 0 || this.tools.draft.line.length > 0;
  }
}
