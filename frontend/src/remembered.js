// What the browser keeps for the next visit. Storage may be forbidden; nothing depends on it.

/** @param {string} key @returns {string | null} */
export function recall(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/** @param {string} key @param {string} value */
export function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Full or forbidden: the choice then lasts as long as the page.
  }
}
