// What the page tells in passing: toasts to see, and a polite line for screen readers.
import { signal } from "@preact/signals";

/** @typedef {{id: number, text: string, kind: "info" | "error", action?: {label: string, run: () => void}}} Toast */

export const toasts = signal(/** @type {Toast[]} */ ([]));
export const spoken = signal("");

let last = 0;

/** @param {string} text */
export function announce(text) {
  spoken.value = text;
}

/**
 * @param {string} text
 * @param {{kind?: "info" | "error", action?: Toast["action"], lasts_ms?: number}} [options]
 * @returns {() => void} takes the toast away
 */
export function toast(text, { kind = "info", action, lasts_ms = 5000 } = {}) {
  const id = ++last;
  const remove = () => { toasts.value = toasts.value.filter((shown) => shown.id !== id); };
  const run = action && (() => { remove(); action.run(); });
  toasts.value = [...toasts.value, { id, text, kind, action: action && run && { label: action.label, run } }];
  setTimeout(remove, lasts_ms);
  return remove;
}
