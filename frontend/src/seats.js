// The seats of the next council: which models, with which personas, under which chairman.
import { signal } from "@preact/signals";
import { recall, remember } from "./remembered.js";

/** @typedef {{key: number, model: string, persona: string}} Seat */
/**
 * @typedef {object} Draft
 * @property {"auto" | "chosen"} mode
 * @property {Seat[]} seats
 * @property {string} chairman empty: the cluster chooses
 * @property {string} fallback empty: none
 * @property {string} temperature
 * @property {string} quorum
 * @property {boolean} cache
 */

export const MOST_SEATS = 16;
const FIRST_SEATS = 3;
const KEY = "council.seats";

let lastKey = 0;

/** @param {string} model @param {string} [persona] @returns {Seat} */
const newSeat = (model, persona = "") => ({ key: ++lastKey, model, persona });

/** @returns {Draft} */
function remembered() {
  /** @type {Draft} */
  const plain = { mode: "chosen", seats: [], chairman: "", fallback: "", temperature: "", quorum: "", cache: false };
  try {
    const kept = JSON.parse(recall(KEY) ?? "{}");
    const seats = Array.isArray(kept.seats) ? kept.seats : [];
    return {
      ...plain, mode: kept.mode === "auto" ? "auto" : "chosen", chairman: String(kept.chairman ?? ""),
      seats: seats.slice(0, MOST_SEATS).map((/** @type {any} */ seat) => newSeat(String(seat.model), String(seat.persona ?? ""))),
    };
  } catch {
    return plain;
  }
}

export const draft = signal(remembered());
export const question = signal("");

/** @param {Partial<Draft>} fields */
export function change(fields) {
  draft.value = { ...draft.value, ...fields };
  const { mode, seats, chairman } = draft.value;
  remember(KEY, JSON.stringify({ mode, chairman, seats: seats.map(({ model, persona }) => ({ model, persona })) }));
}

/** @param {string} model */
export function addSeat(model) {
  if (draft.value.seats.length < MOST_SEATS) change({ mode: "chosen", seats: [...draft.value.seats, newSeat(model)] });
}

/** @param {number} key */
export const removeSeat = (key) => change({ seats: draft.value.seats.filter((seat) => seat.key !== key) });

/** @param {number} key @param {Partial<Seat>} fields */
export const changeSeat = (key, fields) =>
  change({ seats: draft.value.seats.map((seat) => (seat.key === key ? { ...seat, ...fields } : seat)) });

let fitted = false;

/**
 * Fit what was remembered to the models that the cluster has: seats of models that are gone are
 * dropped, and an empty council is proposed three different voices. Once; later the draft is the user's.
 * @param {import("./wire.js").Model[]} models
 */
export function fitSeats(models) {
  if (fitted || !models.length) return;
  fitted = true;
  const names = models.map((model) => model.name);
  const seats = draft.value.seats.filter((seat) => names.includes(seat.model));
  change({
    seats: seats.length ? seats : names.slice(0, FIRST_SEATS).map((name) => newSeat(name)),
    chairman: names.includes(draft.value.chairman) ? draft.value.chairman : "",
  });
}

/**
 * The body of `POST /api/council/sessions`.
 * @param {string} text @param {Draft} chosen @param {string | null} conversationId
 */
export function askBody(text, chosen, conversationId) {
  const seats = chosen.seats.map(({ model, persona }) =>
    (persona.trim() ? { model, persona: persona.trim() } : model));
  const temperature = Number.parseFloat(chosen.temperature);
  const quorum = Number.parseInt(chosen.quorum, 10);
  return {
    question: text.trim(),
    ...(chosen.mode === "chosen" && seats.length && { selected_agents: seats }),
    ...(chosen.chairman && { chairman: chosen.chairman }),
    ...(chosen.fallback && { chairman_fallbacks: [chosen.fallback] }),
    ...(Number.isFinite(temperature) && { options: { temperature } }),
    ...(Number.isFinite(quorum) && { quorum }),
    ...(chosen.cache && { cache: true }),
    conversation_id: conversationId,
  };
}
