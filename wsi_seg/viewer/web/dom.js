// Elements without HTML strings: every text goes in as text, so no name from a file can become markup.

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * Return a new element.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, unknown>} [props] properties where the element has them (`onclick` too), else attributes
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name in element && name !== "list" && name !== "form") Reflect.set(element, name, value);
    else element.setAttribute(name, String(value));
  }
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false) element.append(typeof child === "number" ? String(child) : child);
  }
  return element;
}

/**
 * Return a function that calls `action` once, `ms` after the last call.
 * @template {unknown[]} A
 * @param {number} ms
 * @param {(...args: A) => void} action
 * @returns {(...args: A) => void}
 */
export function debounce(ms, action) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), ms);
  };
}

/**
 * Show one line for a few seconds, for the eye and for screen readers.
 * @param {string} text
 */
export function say(text) {
  const box = document.getElementById("message");
  if (!box) return;
  box.textContent = text;
  box.hidden = false;
  hideLater(box);
}

const hideLater = debounce(6000, (/** @type {HTMLElement} */ box) => { box.hidden = true; });
