// Where the page is, told by the part of the address after `#`, so that a link opens it again.
import { signal } from "@preact/signals";

/**
 * @typedef {{name: "ask"} | {name: "session", id: string} | {name: "cluster"} | {name: "background"}
 *   | {name: "archives"} | {name: "archive", id: string}} Route
 */

/** @param {string} hash @returns {Route} */
export function routeOf(hash) {
  const [, name, id] = hash.replace(/^#/, "").split("/");
  if (name === "sessions" && id) return { name: "session", id: decodeURIComponent(id) };
  if (name === "archives" && id) return { name: "archive", id: decodeURIComponent(id) };
  if (name === "cluster" || name === "background" || name === "archives") return { name };
  return { name: "ask" };
}

export const route = signal(routeOf(location.hash));

window.addEventListener("hashchange", () => {
  route.value = routeOf(location.hash);
});

/** @param {string} id */
export const sessionLink = (id) => `#/sessions/${encodeURIComponent(id)}`;

/** @param {string} id */
export const archiveLink = (id) => `#/archives/${encodeURIComponent(id)}`;

/** @param {string} hash */
export function go(hash) {
  location.hash = hash;
}
