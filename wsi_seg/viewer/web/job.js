// One job of the server in a dialog: what starts, follows and stops it.

import { api, send } from "./api.js";
import { h } from "./dom.js";

const POLL_MS = 1000;

/**
 * @template {import("./api.js").Job} J
 * @param {object} of
 * @param {string} of.path of the jobs of this kind, such as "run"
 * @param {string} of.label of the bar
 * @param {() => unknown} of.body what is asked for by Start
 * @param {(job: J) => {share: number, text: string, more?: Node}} of.tell how far a job is, or how it ended
 * @param {(job: J | null) => void} of.onChange a job has begun (null), or ended
 */
export function jobControls({ path, label, body, tell, onChange }) {
  const status = h("p", { role: "status", className: "progress" });
  const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": label });
  const start = h("button", { type: "button", className: "primary", onclick: () => void begin(path, body()) }, "Start");
  const stop = h("button", { type: "button", disabled: true, onclick: () => void halt() }, "Stop");
  /** @type {string | null} */
  let job = null;
  let closed = false;

  /** Start a job by a request. @param {string} where @param {unknown} asked */
  function begin(where, asked) {
    return follow(async () => (/** @type {{job: string}} */ (await api(where, send(asked)))).job);
  }

  /** @param {() => Promise<string>} begun gives the id of a job that was begun */
  async function follow(begun) {
    start.disabled = true;
    status.textContent = "";
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
    onChange(null);
    while (!closed) {
      /** @type {J} */
      const now = await api(`${path}/${encodeURIComponent(id)}`);
      const { share, text, more } = tell(now);
      bar.value = share;
      status.replaceChildren(now.stopping ? "stopping …" : text, " ", more ?? "");
      if (now.state !== "running") return onChange(now);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  async function halt() {
    stop.disabled = true;
    if (job !== null) await api(`${path}/${encodeURIComponent(job)}`, { method: "DELETE" });
  }

  return { start, stop, bar, status, begin, follow: (/** @type {string} */ id) => follow(async () => id), close: () => { closed = true; } };
}
