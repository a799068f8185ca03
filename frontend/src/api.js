// Calls to the master. Every failure comes out as an ApiError that says what happened.
import { signal } from "@preact/signals";

/** @typedef {import("./wire.js").Problem} Problem */
/** @typedef {import("./wire.js").CouncilSession} CouncilSession */

/** True once the master asked for a key; the page then shows the form for it. */
export const keyWanted = signal(false);

export class ApiError extends Error {
  /** @param {Problem} problem */
  constructor(problem) {
    super(problem.detail ?? problem.title ?? "The request failed");
    this.problem = problem;
    this.status = problem.status ?? 0;
  }
}

/**
 * @param {string} path
 * @param {{method?: string, body?: object, headers?: Record<string, string>, signal?: AbortSignal, keepalive?: boolean}} [options]
 * @returns {Promise<any>}
 */
async function request(path, options = {}) {
  const { body, headers, ...rest } = options;
  let response;
  try {
    response = await fetch(path, {
      ...rest,
      credentials: "same-origin",
      headers: { Accept: "application/json", ...(body && { "Content-Type": "application/json" }), ...headers },
      body: body && JSON.stringify(body),
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError({
      title: "The master does not answer",
      detail: "Check that it is running and that this machine can reach it, then try again.",
      code: "unreachable", status: 0,
    });
  }
  const text = await response.text();
  const json = parsed(text);
  if (response.ok) return json;
  if (response.status === 401) keyWanted.value = true;
  throw new ApiError({ ...problemOf(json, response), status: response.status });
}

/** @param {string} text */
function parsed(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

/** @param {any} json @param {Response} response @returns {Problem} */
function problemOf(json, response) {
  const wait = response.headers.get("Retry-After");
  const problem = json && typeof json === "object" ? json : { title: `The master answered ${response.status}` };
  if (!wait) return problem;
  return { ...problem, detail: `${problem.detail ?? problem.title} Try again in ${wait} s.` };
}

/** A key of one submission, so that sending it twice asks once. Works without a secure context. */
const newKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** @param {string} id */
export const sessionPath = (id) => `/api/council/sessions/${encodeURIComponent(id)}`;

/** @param {string} id */
export const archivePath = (id) => `/api/structured_archive/${encodeURIComponent(id)}`;

/** @param {Record<string, string | number | null | undefined>} query */
function asked(query) {
  const chosen = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value) chosen.set(name, String(value));
  return chosen;
}

/** @param {string} id */
const jobPath = (id) => `/api/background/jobs/${encodeURIComponent(id)}`;

export const api = {
  /** @returns {Promise<import("./wire.js").Model[]>} */
  models: async () => (await request("/api/council/models"))?.models ?? [],
  /** @returns {Promise<import("./wire.js").Worker[]>} */
  workers: async () => (await request("/api/cluster/workers"))?.workers ?? [],
  /** An unhealthy master answers 503 with the same body. @returns {Promise<import("./wire.js").Health>} */
  health: () => request("/health").catch((error) => {
    if (error.problem?.checks || error.problem?.role) return { ...error.problem, status: "unhealthy" };
    throw error;
  }),
  /** @returns {Promise<import("./wire.js").BackgroundEngine>} */
  backgroundEngine: () => request("/api/background/engine"),
  /** @param {object} body @returns {Promise<CouncilSession>} */
  ask: (body) => request("/api/council/sessions", { method: "POST", body, headers: { "Idempotency-Key": newKey() } }),
  /**
   * @param {{q?: string, cursor?: string | null, limit?: number}} query @param {AbortSignal} [signal]
   * @returns {Promise<{sessions: CouncilSession[], next_cursor: string | null}>}
   */
  sessions: (query, signal) => request(`/api/council/sessions?${asked(query)}`, { signal }),
  /** @param {string} id @returns {Promise<CouncilSession>} */
  session: (id) => request(sessionPath(id)),
  /** @param {string} id */
  cancel: (id) => request(`${sessionPath(id)}/cancel`, { method: "POST" }),
  /** @param {string} id @param {string} agentId */
  retry: (id, agentId) => request(`${sessionPath(id)}/agents/${encodeURIComponent(agentId)}/retry`, { method: "POST" }),
  /** @param {string} id @param {{keepalive?: boolean}} [options] */
  remove: (id, options) => request(sessionPath(id), { method: "DELETE", ...options }),
  /** @param {string} id @returns {Promise<{id: string, sessions?: CouncilSession[]}>} */
  conversation: (id) => request(`/api/conversations/${encodeURIComponent(id)}`),
  /** @returns {Promise<import("./wire.js").BackgroundStatus>} */
  backgroundStatus: () => request("/api/background/status"),
  /** @param {{limit?: number, cursor?: string | null}} query @returns {Promise<{jobs: import("./wire.js").Job[], next_cursor: string | null}>} */
  jobs: (query) => request(`/api/background/jobs?${asked(query)}`),
  /** @returns {Promise<{jobs: import("./wire.js").Job[], next_cursor: string | null}>} */
  deadLetters: () => request("/api/background/dead?limit=200"),
  /** @param {string} id */
  cancelJob: (id) => request(`${jobPath(id)}/cancel`, { method: "POST" }),
  /** @param {string} id */
  retryJob: (id) => request(`${jobPath(id)}/retry`, { method: "POST" }),
  /** @param {string} id */
  dismissJob: (id) => request(`/api/background/dead/${encodeURIComponent(id)}`, { method: "DELETE" }),
  /** @returns {Promise<{replayed: number}>} */
  replayAll: () => request("/api/background/dead/replay", { method: "POST" }),
  /** @param {boolean} paused */
  pauseJobs: (paused) => request(`/api/background/${paused ? "pause" : "resume"}`, { method: "POST" }),
  registerActivity: () => request("/api/background/register_activity", { method: "POST" }),
  /** @param {number} hours @returns {Promise<import("./wire.js").Usage>} */
  usage: (hours) => request(`/api/cluster/usage?hours=${hours}`),
  /** @param {{session_id: string} | {conversation_id: string}} what @returns {Promise<{archive_id: string, status: string, created: boolean}>} */
  archive: (what) => request("/api/conversation/archive/background", { method: "POST", body: what }),
  /**
   * @param {{q?: string, cursor?: string | null, limit?: number}} query @param {AbortSignal} [signal]
   * @returns {Promise<{archives: import("./wire.js").Archive[], next_cursor: string | null}>}
   */
  archives: (query, signal) => request(`/api/structured_archives?${asked(query)}`, { signal }),
  /** @param {string} id @returns {Promise<import("./wire.js").Archive>} */
  readArchive: (id) => request(archivePath(id)),
  /** @param {string} id */
  removeArchive: (id) => request(archivePath(id), { method: "DELETE" }),
  /** @param {string} key */
  signIn: async (key) => {
    await request("/api/login", { method: "POST", body: { key } });
    keyWanted.value = false;
  },
};

/** @param {unknown} error @returns {Problem} */
export function asProblem(error) {
  if (error instanceof ApiError) return error.problem;
  if (typeof error === "string") return { title: error };
  if (error && typeof error === "object" && !(error instanceof Error)) return error;
  return { title: "Something went wrong in the page", detail: String(error) };
}
