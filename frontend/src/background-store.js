// Background work: the gate, the jobs, dead letters, and what machines take. Asked for while it is looked at.
import { signal } from "@preact/signals";
import { api, asProblem } from "./api.js";
import { toast } from "./notices.js";

/** @typedef {import("./wire.js").Job} Job */

const EVERY_MS = 3000;
const USAGE_EVERY_MS = 30_000;
const JOBS = 30;

export const status = signal(/** @type {import("./wire.js").BackgroundStatus | null} */ (null));
export const jobs = signal(/** @type {Job[]} */ ([]));
export const nextJobs = signal(/** @type {string | null} */ (null));
export const dead = signal(/** @type {Job[]} */ ([]));
export const usage = signal(/** @type {import("./wire.js").Usage | null} */ (null));
export const usageHours = signal(1);
export const backgroundProblem = signal(/** @type {import("./wire.js").Problem | null} */ (null));
export const backgroundLoaded = signal(false);

let unfolded = false;

export async function refreshBackground() {
  const [found, listed, letters] = await Promise.allSettled([
    api.backgroundStatus(), api.jobs({ limit: JOBS }), api.deadLetters(),
  ]);
  if (found.status === "fulfilled") status.value = found.value;
  if (listed.status === "fulfilled") {
    const { jobs: fresh, next_cursor } = listed.value;
    const ids = new Set(fresh.map((job) => job.id));
    // Pages that were unfolded stay; what is new comes on top.
    jobs.value = unfolded ? [...fresh, ...jobs.value.filter((job) => !ids.has(job.id))] : fresh;
    if (!unfolded) nextJobs.value = next_cursor;
  }
  if (letters.status === "fulfilled") dead.value = letters.value.jobs;
  const failed = [found, listed, letters].find((part) => part.status === "rejected");
  backgroundProblem.value = failed ? asProblem(/** @type {PromiseRejectedResult} */ (failed).reason) : null;
  backgroundLoaded.value = true;
}

export async function moreJobs() {
  await tried("Could not fetch more", async () => {
    const older = await api.jobs({ limit: JOBS, cursor: nextJobs.value });
    unfolded = true;
    jobs.value = [...jobs.value, ...older.jobs];
    nextJobs.value = older.next_cursor;
  });
}

export async function refreshUsage() {
  try {
    usage.value = await api.usage(usageHours.value);
  } catch {
    // The figures stay as they were; the rest of the view tells what is wrong.
  }
}

/** @param {number} hours */
export function showHours(hours) {
  usageHours.value = hours;
  refreshUsage();
}

/** Keeps everything current until the returned function is called. */
export function watchBackground() {
  unfolded = false;
  refreshBackground();
  refreshUsage();
  const timers = [
    setInterval(() => !document.hidden && refreshBackground(), EVERY_MS),
    setInterval(() => !document.hidden && refreshUsage(), USAGE_EVERY_MS),
  ];
  return () => timers.forEach(clearInterval);
}

/** What a person does here: done, told where it fails, and shown. @param {string} trouble @param {() => Promise<any>} work */
async function tried(trouble, work) {
  try {
    await work();
  } catch (error) {
    const problem = asProblem(error);
    toast(`${trouble}: ${problem.detail ?? problem.title}`, { kind: "error" });
  }
  await refreshBackground();
}

/** @param {Job} job */
export const cancelJob = (job) => tried("Could not cancel", () => api.cancelJob(job.id));
/** @param {Job} job */
export const retryJob = (job) => tried("Could not retry", () => api.retryJob(job.id));
/** @param {Job} job */
export const dismissJob = (job) => tried("Could not dismiss", async () => {
  await api.dismissJob(job.id);
  toast("Dismissed. It is kept among the jobs as failed, and can be retried there.");
});
export const replayAll = () => tried("Could not retry", async () => {
  const { replayed } = await api.replayAll();
  toast(`${replayed} run again`);
});
/** @param {boolean} paused */
export const setPaused = (paused) => tried("Could not change the queue", () => api.pauseJobs(paused));
