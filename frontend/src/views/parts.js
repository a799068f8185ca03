// Small parts that several views share.
import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { archive, archiving } from "../archiving.js";
import { count, duration, span } from "../format.js";
import { html } from "../html.js";
import { clockOffset } from "../session-store.js";
import { Icon } from "./icons.js";

/** @param {{text: string, label?: string}} props */
export function CopyButton({ text, label = "Copy" }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return undefined;
    const timer = setTimeout(() => setCopied(false), 1600);
    return () => clearTimeout(timer);
  }, [copied]);
  const copy = async () => setCopied(await toClipboard(text));
  return html`<button type="button" class="quiet" onClick=${copy}>
    <${Icon} name=${copied ? "check" : "copy"} /><span aria-live="polite">${copied ? "Copied" : label}</span>
  </button>`;
}

/** On a LAN address without TLS a browser offers no clipboard; the old way still works there. @param {string} text */
async function toClipboard(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Permission refused: try the old way.
    }
  }
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "offscreen";
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

/** @param {{what: {session_id: string} | {conversation_id: string}, label?: string}} props */
export const ArchiveButton = ({ what, label = "Archive" }) => html`
  <button type="button" class="quiet" disabled=${archiving.value.has(Object.values(what)[0])} onClick=${() => archive(what)}>
    <${Icon} name="archive" />${archiving.value.has(Object.values(what)[0]) ? "Archiving…" : label}</button>`;

/** @param {{kind?: "info" | "good" | "warning" | "bad", title?: any, children?: any, role?: string}} props */
export const Banner = ({ kind = "info", title, children, role = "note" }) => html`
  <div class=${`banner ${kind}`} role=${role}>
    <${Icon} name=${kind === "good" ? "check" : kind === "info" ? "info" : "warning"} />
    <div>${title && html`<strong>${title}</strong>`} ${children}</div>
  </div>`;

/** @param {{problem: import("../wire.js").Problem, action?: any}} props */
export function ProblemBanner({ problem, action }) {
  const where = [problem.model && `model ${problem.model}`, problem.node && `node ${problem.node}`].filter(Boolean).join(", ");
  const title = problem.title ?? "Something went wrong";
  const detail = problem.detail && problem.detail !== title ? problem.detail : "";
  return html`<${Banner} kind="bad" role="alert" title=${detail ? `${title.replace(/[.:]$/, "")}:` : title}>
    ${detail && html`<span> ${detail}</span>`}
    ${where && html`<span> (${where})</span>`}
    ${problem.code && html` <code class="code-name">${problem.code}</code>`}
    ${action}
  <//>`;
}

/** @param {import("../wire.js").Problem | string | null | undefined} error */
export function errorText(error) {
  if (!error) return "";
  return typeof error === "string" ? error : (error.detail ?? error.title ?? error.code ?? "failed");
}

/** Any note of the master as one line. @param {unknown} note */
export function noteText(note) {
  if (typeof note === "string") return note;
  if (note && typeof note === "object") {
    const { text, detail, stage, agent_id, what, characters, ...rest } = /** @type {any} */ (note);
    if (what) {
      const who = agent_id === "chairman" ? "the chairman" : `seat ${seatNumber(agent_id ?? "")}`;
      return `${stage} of ${who}: ${String(what).replaceAll("_", " ")}${characters ? `, ${count(characters)} characters left out` : ""}`;
    }
    return text ?? detail ?? Object.entries(rest).map(([name, value]) => `${name.replaceAll("_", " ")}: ${value}`).join(", ");
  }
  return String(note);
}

const now = signal(Date.now());
setInterval(() => { now.value = Date.now(); }, 200);

/** Time since a moment of the master's clock. @param {{since: number | null}} props */
export const Elapsed = ({ since }) => {
  if (!since) return null;
  const offset = Number.isFinite(clockOffset.value) ? clockOffset.value : 0;
  const ms = Math.max(0, now.value - offset - since);
  return html`<span class="number">${ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : duration(ms)}</span>`;
};

/** @param {string} agentId @returns {string} the seat's number, or "C" for the chairman */
export const seatNumber = (agentId) => (agentId === "chairman" ? "C" : agentId.replace(/^agent_/, ""));

/** @param {{agentId: string}} props */
export const SeatBadge = ({ agentId }) => html`<span class="seat-badge" aria-hidden="true">${seatNumber(agentId)}</span>`;

/** @param {string} agentId @param {import("../wire.js").Agent[]} agents */
export function seatName(agentId, agents) {
  if (agentId === "chairman") return "chairman";
  const agent = agents.find((known) => known.agent_id === agentId);
  return `seat ${seatNumber(agentId)}${agent ? ` (${agent.model}${agent.persona ? `, ${agent.persona}` : ""})` : ""}`;
}

const STATE_WORDS = /** @type {Record<string, string>} */ ({
  waiting: "Waiting", queued: "Queued", running: "Running", done: "Done", failed: "Failed", abstained: "Abstained",
  completed: "Completed", cancelled: "Stopped", opinions: "Opinions", review: "Review", synthesis: "Synthesis",
});

/**
 * Where a queued call stands.
 * @param {{position: number | null} | undefined} call
 */
export const queuePlace = (call) => (call?.position ? `· ${call.position}` : "");

/**
 * In what time a queued call is expected to start; too long for a pill beside a model's name.
 * @param {{position: number | null, estimate_s: number | null} | undefined} call
 */
export const queueWait = (call) => (!call?.position || call.estimate_s == null ? ""
  : `starts in about ${span(Math.max(1, Math.round(call.estimate_s)))}`);

/** @param {{state: string, detail?: string}} props */
export const StatePill = ({ state, detail }) => html`
  <span class=${`pill ${state}`}><i class="dot"></i>${STATE_WORDS[state] ?? state}${detail ? ` ${detail}` : ""}</span>`;
