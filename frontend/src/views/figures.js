// Tokens and latency, per stage and per seat.
import { count, duration, speed } from "../format.js";
import { html } from "../html.js";
import { STAGES } from "../session-state.js";
import { Icon } from "./icons.js";
import { SeatBadge } from "./parts.js";

/** @typedef {import("../session-state.js").SessionView} SessionView */
/** @typedef {import("../wire.js").Stage} Stage */

const KEYS = /** @type {const} */ ({ opinions: "stage1_opinions", review: "stage2_review", synthesis: "stage3_synthesis" });
const NAMES = { opinions: "Opinions", review: "Review", synthesis: "Synthesis" };
const PARTS = /** @type {const} */ ([
  ["queue_ms", "Queue"], ["load_ms", "Load"], ["prompt_ms", "Prompt"], ["generate_ms", "Generate"],
  ["network_ms", "Network"], ["first_token_ms", "First token"], ["total_ms", "Total"],
]);

/** The parts that add up to a call's total. */
const SEGMENTS = /** @type {const} */ ([
  ["queue_ms", "Queue"], ["load_ms", "Load"], ["prompt_ms", "Prompt"], ["generate_ms", "Generate"], ["network_ms", "Network"],
]);
const BAR_WIDTH = 110;

/** Calls of a stage in the order of the seats. @param {SessionView} view @param {Stage} stage */
function callsOf(view, stage) {
  return Object.entries(view.calls[stage])
    .filter(([, call]) => call.latency || call.token_usage)
    .sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
}

/** @param {{id: string, view: SessionView, model: string | null}} props */
const SeatCell = ({ id, view, model }) => html`<th scope="row" class="text"><${SeatBadge} agentId=${id} />
  ${model ?? view.session.agents?.find((agent) => agent.agent_id === id)?.model ?? id}</th>`;

/** @param {{view: SessionView}} props */
function Tokens({ view }) {
  const usage = view.session.token_usage;
  return html`<table class="figures"><caption>Tokens</caption>
    <thead><tr><th scope="col" class="text">Seat</th><th scope="col">Prompt</th><th scope="col">Completion</th><th scope="col">Total</th></tr></thead>
    ${STAGES.map((stage) => {
      const total = usage?.[KEYS[stage]];
      if (!total?.total_tokens && !callsOf(view, stage).length) return null;
      return html`<tbody key=${stage}>
        <tr class="stage-row"><th scope="rowgroup" class="text">${NAMES[stage]}</th><td>${count(total?.total_prompt_tokens)}</td><td>${count(total?.total_completion_tokens)}</td><td>${count(total?.total_tokens)}</td></tr>
        ${callsOf(view, stage).filter(([, call]) => call.token_usage).map(([id, call]) => html`<tr key=${id}><${SeatCell} id=${id} view=${view} model=${call.model} />
          <td>${count(call.token_usage?.prompt_tokens)}</td><td>${count(call.token_usage?.completion_tokens)}</td><td>${count(call.token_usage?.total_tokens)}</td></tr>`)}
        ${!callsOf(view, stage).some(([, call]) => call.token_usage) && Object.entries(total?.by_model ?? {}).map(([model, tokens]) => html`<tr key=${model}>
          <th scope="row" class="text">${model}</th><td>${count(tokens.prompt_tokens)}</td><td>${count(tokens.completion_tokens)}</td><td>${count(tokens.total_tokens)}</td></tr>`)}
      </tbody>`;
    })}
    ${usage?.total_tokens ? html`<tfoot><tr><th scope="row" class="text">Session</th><td>${count(usage.total_prompt_tokens)}</td><td>${count(usage.total_completion_tokens)}</td><td>${count(usage.total_tokens)}</td></tr></tfoot>` : null}
  </table>`;
}

/**
 * A call's time as a bar, to the scale of the session's longest call.
 * @param {{latency: import("../wire.js").CallLatency, longest: number}} props
 */
function TimeBar({ latency, longest }) {
  let at = 0;
  const bars = SEGMENTS.map(([key, name]) => {
    const width = ((latency[key] ?? 0) / longest) * BAR_WIDTH;
    const bar = html`<rect key=${key} class=${`part-${name.toLowerCase()}`} x=${at} y="0" width=${width} height="10"><title>${name}: ${duration(latency[key])}</title></rect>`;
    at += width;
    return bar;
  });
  return html`<svg class="time-bar" viewBox=${`0 0 ${BAR_WIDTH} 10`} width=${BAR_WIDTH} height="10" aria-hidden="true">${bars}</svg>`;
}

const Legend = () => html`<p class="legend" aria-hidden="true">${SEGMENTS.map(([key, name]) => html`
  <span key=${key}><svg width="10" height="10"><rect class=${`part-${name.toLowerCase()}`} width="10" height="10" rx="2" /></svg>${name}</span>`)}</p>`;

/** @param {{view: SessionView}} props */
function Latency({ view }) {
  const longest = Math.max(1, ...STAGES.flatMap((stage) => callsOf(view, stage).map(([, call]) =>
    SEGMENTS.reduce((sum, [key]) => sum + (call.latency?.[key] ?? 0), 0))));
  const stats = view.session.latency_stats;
  return html`<table class="figures"><caption>Latency</caption>
    <thead><tr><th scope="col" class="text">Seat</th><th scope="col" class="text">Node</th><th scope="col" class="text">Time</th>${PARTS.map(([key, name]) => html`<th scope="col" key=${key}>${name}</th>`)}<th scope="col">Speed</th></tr></thead>
    ${STAGES.map((stage) => {
      const calls = callsOf(view, stage).filter(([, call]) => call.latency);
      const total = stats?.[KEYS[stage]];
      if (!calls.length && total?.duration_ms == null) return null;
      return html`<tbody key=${stage}>
        <tr class="stage-row"><th scope="rowgroup" class="text" colspan="3">${NAMES[stage]}</th><td colspan=${PARTS.length - 1}></td><td>${duration(total?.duration_ms)}</td><td></td></tr>
        ${calls.map(([id, call]) => html`<tr key=${id}><${SeatCell} id=${id} view=${view} model=${call.model} /><td class="text">${call.latency?.node ?? call.node ?? "–"}</td>
          <td class="text">${call.latency && html`<${TimeBar} latency=${call.latency} longest=${longest} />`}</td>
          ${PARTS.map(([key]) => html`<td key=${key}>${duration(call.latency?.[key])}</td>`)}<td>${speed(call.latency?.tokens_per_second)}</td></tr>`)}
      </tbody>`;
    })}
    ${stats?.total_duration_ms ? html`<tfoot><tr><th scope="row" class="text" colspan="3">Session</th><td colspan=${PARTS.length - 1}></td><td>${duration(stats.total_duration_ms)}</td><td></td></tr></tfoot>` : null}
  </table>`;
}

/** @param {{view: SessionView}} props */
export function Figures({ view }) {
  if (!STAGES.some((stage) => callsOf(view, stage).length)) return null;
  return html`<details class="stage">
    <summary><${Icon} name="chevron" /><h2>Tokens and latency</h2></summary>
    <div class="card figures-card">
      <div class="table-box" tabindex="0" role="region" aria-label="Tokens"><${Tokens} view=${view} /></div>
      <div class="table-box" tabindex="0" role="region" aria-label="Latency"><${Latency} view=${view} /><${Legend} /></div>
    </div>
  </details>`;
}
