// What the cluster has: models, nodes, health. Asked for now and then while the page is looked at.
import { computed, signal } from "@preact/signals";
import { api, asProblem } from "./api.js";

/** @typedef {import("./wire.js").Model} Model */

const EVERY_MS = 15_000;

export const models = signal(/** @type {Model[]} */ ([]));
export const workers = signal(/** @type {import("./wire.js").Worker[]} */ ([]));
export const health = signal(/** @type {import("./wire.js").Health | null} */ (null));
export const backgroundEngine = signal(/** @type {import("./wire.js").BackgroundEngine | null} */ (null));
export const clusterProblem = signal(/** @type {import("./wire.js").Problem | null} */ (null));
export const clusterLoaded = signal(false);

/** Models that can answer: one that only embeds cannot take a seat. */
export const chatModels = computed(() => models.value.filter((model) => {
  const able = model.capabilities ?? [];
  return !able.length || able.some((name) => !/embed/i.test(name));
}));

/** @param {Model} model */
export const nodeNames = (model) =>
  (model.nodes ?? []).map((node) => (typeof node === "string" ? node : node.name));

export async function refreshCluster() {
  const [found, nodes, state] = await Promise.allSettled([api.models(), api.workers(), api.health()]);
  if (found.status === "fulfilled") models.value = found.value;
  if (nodes.status === "fulfilled") workers.value = nodes.value;
  health.value = state.status === "fulfilled" ? state.value : null;
  // Asked for only where a node has such an engine.
  const named = ["connected", "down"].includes(String(health.value?.checks?.background_engine));
  backgroundEngine.value = named ? await api.backgroundEngine().catch(() => null) : null;
  const failed = [found, nodes].find((part) => part.status === "rejected");
  clusterProblem.value = failed ? asProblem(/** @type {PromiseRejectedResult} */ (failed).reason) : null;
  clusterLoaded.value = true;
}

export function watchCluster() {
  refreshCluster();
  setInterval(() => !document.hidden && refreshCluster(), EVERY_MS);
  document.addEventListener("visibilitychange", () => !document.hidden && refreshCluster());
}
