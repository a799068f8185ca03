// The archives: a list that is searched and paged, and one that is read.
import { signal } from "@preact/signals";
import { api, asProblem } from "./api.js";

/** @typedef {import("./wire.js").Archive} Archive */

const PAGE = 30;
const TYPING_MS = 200;

export const archives = signal(/** @type {Archive[]} */ ([]));
export const nextArchives = signal(/** @type {string | null} */ (null));
export const archiveSearch = signal("");
export const archivesProblem = signal(/** @type {import("./wire.js").Problem | null} */ (null));
export const archivesLoaded = signal(false);

/** @type {AbortController | null} */
let running = null;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let typing;

/** @param {string | null} cursor */
async function load(cursor) {
  running?.abort();
  const own = running = new AbortController();
  try {
    const answer = await api.archives({ q: archiveSearch.value.trim(), cursor, limit: PAGE }, own.signal);
    archives.value = cursor ? [...archives.value, ...answer.archives] : answer.archives;
    nextArchives.value = answer.next_cursor ?? null;
    archivesProblem.value = null;
  } catch (error) {
    if (own.signal.aborted) return;
    archivesProblem.value = asProblem(error);
  }
  archivesLoaded.value = true;
}

export const refreshArchives = () => load(null);
export const moreArchives = () => load(nextArchives.value);

/** @param {string} text */
export function searchArchives(text) {
  archiveSearch.value = text;
  clearTimeout(typing);
  typing = setTimeout(() => load(null), TYPING_MS);
}
