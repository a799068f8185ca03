// The list of sessions: search, pages, and deletion that can be taken back.
import { signal } from "@preact/signals";
import { api, asProblem } from "./api.js";
import { toast } from "./notices.js";

/** @typedef {import("./wire.js").CouncilSession} CouncilSession */

const PAGE = 30;
const TYPING_MS = 200;
/** As long as a deletion can be undone; only then is it sent. */
export const UNDO_MS = 6000;

export const sessions = signal(/** @type {CouncilSession[]} */ ([]));
export const nextCursor = signal(/** @type {string | null} */ (null));
export const search = signal("");
export const listProblem = signal(/** @type {import("./wire.js").Problem | null} */ (null));
export const loaded = signal(false);
/** Sessions whose deletion is waiting. */
export const leaving = signal(/** @type {Map<string, ReturnType<typeof setTimeout>>} */ (new Map()));

/** @type {AbortController | null} */
let running = null;

/**
 * @param {string | null} cursor
 * @param {boolean} [keep] the pages that were unfolded stay; only what is new comes on top
 */
async function load(cursor, keep = false) {
  running?.abort();
  const own = running = new AbortController();
  try {
    const answer = await api.sessions({ q: search.value.trim(), cursor, limit: PAGE }, own.signal);
    const unfolded = keep && answer.next_cursor && sessions.value.length > answer.sessions.length;
    if (cursor) sessions.value = joined(sessions.value, answer.sessions);
    else sessions.value = unfolded ? joined(answer.sessions, sessions.value) : answer.sessions;
    if (!unfolded) nextCursor.value = answer.next_cursor ?? null;
    listProblem.value = null;
  } catch (error) {
    if (own.signal.aborted) return;
    listProblem.value = asProblem(error);
  }
  loaded.value = true;
}

/** @param {CouncilSession[]} first @param {CouncilSession[]} rest */
function joined(first, rest) {
  const ids = new Set(first.map((session) => session.id));
  return [...first, ...rest.filter((session) => !ids.has(session.id))];
}

export const refreshHistory = () => load(null, true);
export const loadMore = () => load(nextCursor.value);

/** @type {ReturnType<typeof setTimeout> | undefined} */
let typing;

/** @param {string} text */
export function searchFor(text) {
  search.value = text;
  clearTimeout(typing);
  typing = setTimeout(() => load(null), TYPING_MS);
}

/** @param {string} id */
export function deleteSession(id) {
  const timer = setTimeout(() => send(id), UNDO_MS);
  leaving.value = new Map(leaving.value).set(id, timer);
  toast("Session deleted", { lasts_ms: UNDO_MS, action: { label: "Undo", run: () => stay(id) } });
}

/** @param {string} id */
function stay(id) {
  clearTimeout(leaving.value.get(id));
  const rest = new Map(leaving.value);
  rest.delete(id);
  leaving.value = rest;
}

/** @param {string} id @param {boolean} [keepalive] */
async function send(id, keepalive) {
  try {
    await api.remove(id, { keepalive });
    sessions.value = sessions.value.filter((session) => session.id !== id);
  } catch (error) {
    const problem = asProblem(error);
    if (problem.status !== 404) toast(`Could not delete: ${problem.detail ?? problem.title}`, { kind: "error" });
  }
  stay(id);
}

// Closing the page is not an undo: what was deleted is deleted now.
window.addEventListener("pagehide", () => {
  for (const id of leaving.value.keys()) send(id, true);
});
