// Tells the master that somebody is at the page: typing a question should already make background work stop.
import { api, keyWanted } from "./api.js";

const EVERY_MS = 20_000;
let told = -Infinity;

function tell() {
  const now = performance.now();
  if (document.hidden || keyWanted.value || now - told < EVERY_MS) return;
  told = now;
  // Where it cannot be told, the question itself will be heard.
  api.registerActivity().catch(() => {});
}

export function tellActivity() {
  document.addEventListener("input", tell, { passive: true });
}
