// One slide on the screen, or two runs of it side by side, and the panel.

import { ApiError, api, slidePath } from "./api.js";
import { debounce, h, say } from "./dom.js";
import { helpDialog, listen } from "./keys.js";
import { Measure } from "./measure.js";
import { buildPanel, placeOf } from "./panel.js";
import { Pane } from "./pane.js";
import { savePicture } from "./picture.js";
import { RetrainDialog } from "./retrain.js";
import { ReviewScreen } from "./review_screen.js";
import { RegionTable } from "./region_table.js";
import { OPACITY, writeState } from "./state.js";
import { statusText, unfinished } from "./status.js";
import { Toolbar } from "./toolbar.js";
import { quarter } from "./turn.js";

/** @typedef {import("./api.js").Slide} Slide */
/** @typedef {import("./state.js").State} State */

const POLL_MS = 2000; // while a run fills the results
const WATCH_MS = 5000; // results that may be replaced by others

export class SlideScreen {
  /**
   * @param {HTMLElement} root
   * @param {State} state
   * @param {{slide: Slide, other: Slide | null, about: import("./api.js").About}} facts `about` the server
   * @param {(state: State) => void} go leave for another slide or comparison
   */
  constructor(root, state, { slide, other, about }, go) {
    this.root = root;
    this.state = state;
    this.slide = slide;
    this.other = other;
    this.go = go;
    this.progress = h("p", { className: "progress", role: "status", hidden: true });
    this.help = helpDialog(about.allow_review);
    this.retrain = about.allow_review && about.allow_run ? new RetrainDialog(slide.id, () => {}) : null;
    this.saveSoon = debounce(200, () => this.save());
    /** @type {ReviewScreen | null} */
    this.reviewing = null;
    this.measure = new Measure(this);
    this.toolbar = new Toolbar(this);
    this.table = new RegionTable(this);
    this.panel = buildPanel(this);
    const stages = h("main", { className: other ? "stages two" : "stages", "aria-label": "Slide" });
    root.replaceChildren(stages, this.table.element, this.panel.element, this.help, ...(this.retrain ? [this.retrain.element] : []));
    const onProblem = (/** @type {string} */ text) => { say(text); void this.look(); };
    const listeners = { onView: this.onView.bind(this), onHover: this.onHover.bind(this), onProblem, onSelect: this.onSelect.bind(this) };
    const shown = other ? [slide, other] : [slide];
    const places = shown.map((each) => addStage(stages, each, Boolean(other))); // all of them first: they share the width
    this.panes = shown.map((each, i) => new Pane(places[i], each, listeners));
    this.leader = this.panes[0]; // the pane that the other one follows
    for (const pane of this.panes) {
      for (const event of ["pointerdown", "pointerenter", "wheel"]) pane.element.addEventListener(event, () => { this.leader = pane; }, { passive: true });
      pane.viewer.addOnceHandler("open", () => this.opened(pane));
    }
    this.panes.forEach((pane) => this.measure.attach(pane));
    stages.append(this.toolbar.element);
    if (about.allow_review && !unfinished(slide.status)) this.reviewing = new ReviewScreen(this, () => this.panel.sync(this.state));
    this.stopListening = listen(this);
    this.address = location.hash; // as it was when last written or read
    this.closed = false;
    addEventListener("beforeunload", this.onUnload);
    document.title = `${slide.name} – wsi-seg view`;
    if (slide.status !== "done") this.tell(statusText(slide.status, slide.progress));
    this.blocks = slide.progress?.blocks_done ?? 0;
    void this.watch();
  }

  /** @param {Pane} pane */
  opened(pane) {
    pane.turnTo(this.state.turn);
    if (this.state.at) pane.moveTo(this.state.at, true);
    else pane.home(true);
    this.showIn(pane);
    this.sync();
  }

  /** The region that is marked is one of the first pane. @param {Pane} pane */
  showIn(pane) {
    pane.show(pane === this.panes[0] ? this.state : { ...this.state, marked: null });
  }

  sync() {
    this.panel.sync(this.state);
    this.table.sync(this.state);
    this.toolbar.sync(this.state);
  }

  /** @param {Partial<State>} change */
  update(change) {
    this.state = { ...this.state, ...change };
    this.sync();
    this.showSoon();
    this.saveSoon();
  }

  // Sliders speak faster than tiles and contours can be had.
  showSoon = debounce(60, () => { if (!this.closed) this.panes.forEach((pane) => this.showIn(pane)); });

  /** @param {number} degrees clockwise */
  turnBy(degrees) {
    this.update({ turn: quarter(this.state.turn + degrees) });
    this.panes.forEach((pane) => pane.turnTo(this.state.turn));
    say(this.state.turn ? `Turned by ${this.state.turn}° clockwise.` : "Upright.");
  }

  /** @param {number[]} codes @param {boolean} on */
  toggle(codes, on) {
    const rest = this.state.off.filter((code) => !codes.includes(code));
    this.update({ off: on ? rest : [...rest, ...codes].sort((a, b) => a - b) });
  }

  /** Show one class or group alone, or all again where that is so already. @param {number[]} codes */
  solo(codes) {
    const rest = this.slide.classes.map(({ code }) => code).filter((code) => !codes.includes(code));
    const alone = rest.every((code) => this.state.off.includes(code)) && !codes.some((code) => this.state.off.includes(code));
    this.update({ off: alone ? [] : rest.sort((a, b) => a - b) });
  }

  /** All layers off, or back as they were. */
  toggleLayers() {
    const shown = Object.values(this.state.opacity).some((value) => value > 0);
    if (shown) this.lastOpacity = this.state.opacity;
    const none = Object.fromEntries(Object.keys(OPACITY).map((name) => [name, 0]));
    this.update({ opacity: shown ? none : this.lastOpacity ?? { ...OPACITY } });
  }

  /** @param {Pane} pane */
  onView(pane) {
    if (pane !== this.leader) return;
    this.toolbar.syncView();
    const at = pane.at();
    for (const other of this.panes) if (other !== pane && differ(other.at(), at)) other.moveTo(at, true);
    if (!this.state.at || differ(this.state.at, at)) {
      this.state.at = at;
      this.saveSoon();
    }
  }

  /** @param {Pane} pane @param {[number, number] | null} l0 */
  onHover(pane, l0) {
    for (const other of this.panes) if (other !== pane) other.mark(l0);
    this.toolbar.pointAt(l0);
  }

  /** @param {Pane} pane @param {[number, number]} l0 @returns {boolean} whether the click is for the review */
  onSelect(pane, l0) {
    const { reviewing } = this;
    if (!reviewing || pane !== reviewing.pane) return false;
    if (!reviewing.drawing) void reviewing.attempt(() => reviewing.selectAt(l0));
    return true;
  }

  /** Whether this screen is gone, or is about to be, since the user has just changed the address. */
  get left() {
    return this.closed || location.hash !== this.address;
  }

  /** Write what is shown into the address. */
  save() {
    if (this.left) return;
    history.replaceState(null, "", writeState(this.state));
    this.address = location.hash;
  }

  async copyLink() {
    this.save();
    // Browsers give pages of other machines no clipboard without https, and users may refuse it.
    const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
    say(copied ? "The address of this view is in the clipboard." : "The address of this view stands in the address bar.");
  }

  async savePicture() {
    try {
      await savePicture(this);
    } catch (error) {
      say(`No picture: ${error instanceof Error ? error.message : error}`);
    }
  }

  /** @param {string} text about a run or its results, under the slide's name */
  tell(text) {
    this.progress.hidden = false;
    this.progress.textContent = text;
  }

  /** Follow a run that is under way, and results that another run may replace. */
  async watch() {
    while (!this.closed) {
      await new Promise((resolve) => setTimeout(resolve, unfinished(this.slide.status) ? POLL_MS : WATCH_MS));
      if (!document.hidden) await this.look();
    }
  }

  /** Ask how far a run is; load its maps again when blocks were added, and everything when other results are there. */
  async look() {
    try {
      for (const shown of this.other ? [this.slide, this.other] : [this.slide]) {
        /** @type {import("./api.js").Progress} */
        const now = await api(slidePath(shown.id, "/progress"));
        if (this.left) return;
        if (now.version !== shown.version) {
          if (!unfinished(shown.status)) say(`The results of ${shown.name} were replaced: these are the new ones.`);
          return this.go({ ...this.state, marked: null }); // numbers are others there
        }
        if (shown === this.slide && unfinished(now.status)) this.progressed(now);
      }
      const { reviewing } = this;
      if (reviewing && !reviewing.busy) await reviewing.attempt(() => reviewing.review.refresh());
    } catch (error) {
      const gone = error instanceof ApiError && error.status === 404;
      if (!this.left && (gone || unfinished(this.slide.status))) this.tell(error instanceof Error ? error.message : String(error));
    }
  }

  /** @param {import("./api.js").Progress} now */
  progressed(now) {
    this.tell(statusText(now.status, now));
    if (now.blocks_done !== this.blocks) {
      this.panes[0].looks++;
      this.showIn(this.panes[0]);
    }
    this.blocks = now.blocks_done;
  }

  /** Have the browser ask before what is drawn is lost. @param {BeforeUnloadEvent} event */
  onUnload = (event) => { if (this.reviewing?.unsaved) event.preventDefault(); };

  close() {
    this.closed = true;
    removeEventListener("beforeunload", this.onUnload);
    this.stopListening();
    this.root.classList.remove("tabled");
    this.retrain?.close();
    this.panes.forEach((pane) => pane.close());
  }
}

/**
 * Tell whether two places differ by more than a thousandth of a pixel, or in scale by what would show as much.
 * @param {number[]} a
 * @param {number[]} b
 */
function differ(a, b) {
  return a.some((value, i) => Math.abs(value - b[i]) > (i === 2 ? 1e-6 : 1e-3) * b[2]);
}

/** @param {HTMLElement} stages @param {Slide} slide @param {boolean} named */
function addStage(stages, slide, named) {
  const element = h("div", { className: "pane" });
  stages.append(named ? h("div", { className: "named" }, h("h2", { className: "panename" }, placeOf(slide)), element) : element);
  return element;
}
