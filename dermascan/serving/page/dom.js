/** Small helpers that build elements from text, never from markup, and speak to screen readers. */

/**
 * Make an element.
 * @param {string} tag
 * @param {object} [options] `class`, `text`, `on` (event to listener), `data`, `vars` (custom
 *   properties), any other name is an attribute; null, undefined and false leave it out.
 * @param {...(Node|string|null)} children
 */
export function el(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  const { class: names, text, on = {}, data = {}, vars = {}, ...attributes } = options;
  if (names) element.className = names;
  if (text !== undefined) element.textContent = text;
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  Object.assign(element.dataset, data);
  for (const [name, value] of Object.entries(vars)) element.style.setProperty(name, value);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A real button; `action` names it for tests, styles and the keeping of focus. */
export function button(action, text, listener, options = {}) {
  return el("button", { type: "button", text, data: { action }, on: { click: listener }, ...options });
}

/** A file's name as text of its own direction, whatever is in it. */
export const fileName = (name) => el("bdi", { class: "file", text: name });

/**
 * Rebuild what is in an element without losing the keyboard's place in it.
 * A control that is gone gives the focus to `fallback`.
 */
export function rebuild(element, children, fallback = element) {
  const action = element.contains(document.activeElement)
    ? (document.activeElement.dataset.action ?? "")
    : null;
  element.replaceChildren(...children.filter((child) => child !== null));
  if (action === null) return;
  const same = action && element.querySelector(`[data-action="${action}"]:not(:disabled)`);
  (same || fallback).focus({ preventScroll: true });
}

/**
 * Tell screen readers.
 * @param {string} message
 * @param {boolean} [urgent] interrupts what is being read.
 */
export function announce(message, urgent = false) {
  const region = document.getElementById(urgent ? "say-now" : "say");
  region.textContent = "";
  requestAnimationFrame(() => {
    region.textContent = message;
  });
}
