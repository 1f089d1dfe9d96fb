// Retraining on the reviews, as `wsi-seg train --from` does; only where runs and reviews are allowed.

import { api } from "./api.js";
import { h, say } from "./dom.js";
import { jobControls } from "./job.js";
import { tellRun } from "./run.js";
import { newState, writeState } from "./state.js";
import { verdictLines } from "./verdict.js";

/** @typedef {import("./api.js").RetrainOptions} RetrainOptions */
/** @typedef {import("./api.js").TrainJob} TrainJob */
/** @typedef {import("./api.js").RunJob} RunJob */
/** @typedef {"names" | "slides"} Whose */

const WHOSE = Object.freeze({ names: "as TCGA barcodes in the names say", slides: "another one each" });

export class RetrainDialog {
  /** @param {string | null} slide id of the results that are shown @param {() => void} onChange a run has begun or ended */
  constructor(slide, onChange) {
    this.slide = slide;
    this.onChange = onChange;
    /** @type {RetrainOptions | null} */
    this.options = null;
    this.model = h("select", {});
    this.whose = h("select", { onchange: () => this.showHeldOut() }, ...Object.entries(WHOSE).map(([value, text]) => h("option", { value }, text)));
    this.heldOut = h("fieldset", {});
    this.steps = h("input", { type: "number", min: "1", max: "100000", step: "1" });
    this.name = h("input", { type: "text", maxLength: 64, autocomplete: "off", spellcheck: false });
    this.reviewed = h("p", { className: "facts" });
    this.note = h("p", { className: "notice" });
    this.verdict = h("div", { className: "verdict", role: "status", hidden: true });
    this.training = jobControls({ path: "retrain", label: "Share of steps done", body: () => this.asked(), tell: tellTraining, onChange: (job) => this.trained(job) });
    this.run = jobControls({ path: "run", label: "Share of the run done", body: () => ({}), tell: tellRun, onChange: (job) => this.ran(job) });
    this.run.stop.hidden = true;
    const line = (/** @type {string} */ text, /** @type {HTMLElement} */ input) => h("label", { className: "pick" }, h("span", {}, text), input);
    const close = h("button", { type: "button", onclick: () => this.element.close() }, "Close");
    this.element = h("dialog", { className: "run", "aria-label": "Retrain" }, h("h2", {}, "Retrain on the reviews"), this.reviewed, line("Old model", this.model),
      line("Patients are", this.whose), this.heldOut, this.note, line("Steps, at most", this.steps), line("New model", this.name), this.training.bar, this.training.status,
      this.verdict, this.run.bar, this.run.status, h("div", { className: "actions" }, this.training.start, this.training.stop, this.run.stop, close));
  }

  /** The button that opens it. */
  button() {
    return h("button", { type: "button", onclick: () => void this.open() }, "Retrain …");
  }

  async open() {
    try {
      const first = this.options === null;
      this.options = /** @type {RetrainOptions} */ (await api("retrain/options"));
      this.show(first);
      this.element.showModal();
      if (first && this.options.job) void this.training.follow(this.options.job); // begun before this page was opened, or ended since
    } catch (error) {
      say(error instanceof Error ? error.message : String(error));
    }
  }

  /** @param {boolean} first nothing was typed yet */
  show(first) {
    const { slides, models, model, steps, name, elsewhere } = /** @type {RetrainOptions} */ (this.options);
    this.reviewed.textContent = `${slides.length} reviewed slide${slides.length === 1 ? "" : "s"} in this folder.${elsewhere.length ? ` In training, started elsewhere: ${elsewhere.join(", ")}.` : ""}`;
    const chosen = first ? model ?? models[0]?.name : this.model.value;
    this.model.replaceChildren(...models.map((one) => h("option", { value: one.name }, one.name === model ? `${one.name} (of these results)` : one.name)));
    this.model.value = chosen;
    if (first) this.steps.value = String(steps);
    if (first || this.verdict.childElementCount) this.name.value = name;
    if (first && slides.length > 0 && !slides.some(({ known }) => known)) this.whose.value = "slides";
    this.showHeldOut();
  }

  showHeldOut() {
    const { slides } = /** @type {RetrainOptions} */ (this.options), whose = /** @type {Whose} */ (this.whose.value);
    const names = [...new Set(slides.map((one) => one[whose]))].sort();
    this.heldOut.replaceChildren(h("legend", {}, "Compare on (none: drawn at random)"), ...names.map((name) => h("label", { className: "line" }, h("input", { type: "checkbox", value: name }), name)));
    const unknown = whose === "names" ? slides.filter(({ known }) => !known).length : 0;
    this.note.textContent = unknown ? `The patients of ${unknown} of them are not known by their names, so that no verdict can be given.`
      : names.length < 6 ? "To call the new model better takes five patients or more to compare on, and others to train on." : "";
  }

  asked() {
    this.verdict.hidden = true;
    const held = [...this.heldOut.querySelectorAll("input")].filter((box) => box.checked).map((box) => box.value);
    return { model: this.model.value, name: this.name.value.trim(), steps: Math.floor(Number(this.steps.value)), whose: this.whose.value, held_out: held };
  }

  /** @param {TrainJob | null} job that has ended */
  trained(job) {
    if (!job) return;
    const { state, name, step, command, comparison } = job, code = h("code", {}, command);
    this.verdict.hidden = false;
    if (comparison) {
      const [head, ...lines] = verdictLines(comparison);
      const go = h("button", { type: "button", onclick: () => { go.disabled = true; void this.run.begin("retrain/run", { name }).finally(() => { go.disabled = false; }); } }, "Run the new model on these slides");
      this.verdict.replaceChildren(h("h3", {}, head), ...lines.map((text) => h("p", {}, text)), go, h("p", { className: "facts" }, "In a terminal: ", code));
    } else if (state === "stopped" && step > 0) {
      this.verdict.replaceChildren(h("p", {}, "Whole epochs are kept. To resume, in a terminal:"), h("p", { className: "facts" }, code));
    } else this.verdict.hidden = true;
  }

  /** @param {RunJob | null} job that has ended; null: one has begun */
  ran(job) {
    this.onChange();
    this.run.stop.hidden = job !== null;
    if (!job?.pairs.length) return;
    const [old, made] = job.pairs.find(([id]) => id === this.slide) ?? job.pairs[0];
    const both = writeState({ ...newState(old), other: made });
    this.run.status.append(" ", h("a", { href: both }, "Compare both"));
    if (job.state === "done" && this.element.open) location.hash = both;
  }

  close() {
    this.training.close();
    this.run.close();
  }
}

/** Say how far a training is. @param {TrainJob} job */
function tellTraining({ state, step, steps, loss, validation_loss: held, validation_dice: dice, message }) {
  if (state !== "running") return { share: state === "done" ? 1 : step / steps, text: state === "done" ? "done" : message || state };
  const figures = [loss !== null && `loss ${loss.toFixed(3)}`, held !== null && `validation loss ${held.toFixed(3)}`, dice !== null && `validation Dice ${dice.toFixed(3)}`];
  const now = [`step ${step} of ${steps}`, ...figures.filter(Boolean)].join(", ");
  return { share: step / steps, text: !message || message.startsWith("epoch ") ? now : `${now}; ${message}` };
}
