// How figures and times are written.

/** @param {number | null | undefined} ms */
export function duration(ms) {
  if (ms == null || Number.isNaN(ms)) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
  return `${Math.floor(seconds / 3600)} h ${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")} min`;
}

/** A span that people set, without the zeros of a figure that was measured. @param {number} seconds */
export function span(seconds) {
  if (seconds < 120) return `${Number(seconds.toFixed(1))} s`;
  if (seconds < 7200) return `${Number((seconds / 60).toFixed(1))} min`;
  return `${Number((seconds / 3600).toFixed(1))} h`;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** @param {number | null | undefined} value */
export const count = (value) => (value == null ? "–" : whole.format(value));

/** @param {number | null | undefined} value @param {number} digits */
export const decimal = (value, digits = 1) => (value == null ? "–" : value.toFixed(digits));

/** @param {number | null | undefined} value tokens per second */
export const speed = (value) => (value ? `${value >= 100 ? whole.format(value) : value.toFixed(1)} tok/s` : "–");

/** @param {number | null | undefined} size in bytes */
export function bytes(size) {
  if (!size) return "";
  if (size >= 1e9) return `${(size / 1e9).toFixed(1)} GB`;
  return `${Math.max(1, Math.round(size / 1e6))} MB`;
}

/** @param {string | null | undefined} at @param {number} now */
export function when(at, now = Date.now()) {
  const time = Date.parse(at ?? "");
  if (!time) return "";
  const minutes = Math.floor((now - time) / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  const date = new Date(time);
  const clock = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (date.toDateString() === new Date(now).toDateString()) return clock;
  const day = date.toLocaleDateString([], { day: "numeric", month: "short", ...(minutes > 300 * 1440 && { year: "numeric" }) });
  return `${day}, ${clock}`;
}

/** @param {number} amount @param {string} noun */
export const plural = (amount, noun) => `${amount} ${noun}${amount === 1 ? "" : "s"}`;

/** @param {string[]} names */
export function listed(names) {
  if (names.length < 2) return names.join("");
  return `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}
