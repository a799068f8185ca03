// Stage 1: the seats side by side, each with its state and its text as it comes. On a phone: tabs.
import { signal } from "@preact/signals";
import { useId, useState } from "preact/hooks";
import { count, duration, speed } from "../format.js";
import { html } from "../html.js";
import { isEnded } from "../session-state.js";
import { AnswerText, FollowingBox } from "./answer-text.js";
import { Icon } from "./icons.js";
import { CopyButton, Elapsed, SeatBadge, StatePill, errorText, queuePlace, queueWait, seatNumber } from "./parts.js";

/** @typedef {import("../session-state.js").SessionView} SessionView */
/** @typedef {import("../session-state.js").Call} Call */
/** @typedef {import("../wire.js").Agent} Agent */

const phone = matchMedia("(max-width: 719px)");
const narrow = signal(phone.matches);
phone.addEventListener("change", () => { narrow.value = phone.matches; });

/** Fewer deltas than this say nothing of a speed. */
const DELTAS_FOR_SPEED = 8;

/** @param {Call} call */
function speedOf(call) {
  if (call.latency?.tokens_per_second) return speed(call.latency.tokens_per_second);
  const time = (call.last_token_at ?? 0) - (call.first_token_at ?? 0);
  if (call.deltas < DELTAS_FOR_SPEED || time <= 0) return null;
  return `≈ ${speed(((call.deltas - 1) * 1000) / time)}`;
}

/** @param {{call: Call}} props */
function SeatFigures({ call }) {
  const total = call.latency?.total_ms;
  const rate = speedOf(call);
  return html`<p class="seat-figures number">
    ${call.node && html`<span class="node-name">${call.node}</span>`}
    ${call.state === "queued" && queueWait(call) && html`<span>${queueWait(call)}</span>`}
    ${rate && html`<span>${rate}</span>`}
    ${call.state === "running" ? html`<span><${Elapsed} since=${call.started_at} /></span>` : total ? html`<span>${duration(total)}</span>` : null}
    ${call.token_usage && html`<span>${count(call.token_usage.completion_tokens)} tokens</span>`}
  </p>`;
}

/** @param {{text: string, growing: boolean}} props */
const Thinking = ({ text, growing }) => html`<details class="thinking">
  <summary><${Icon} name="chevron" />${growing ? "Thinking…" : "Thinking"}</summary>
  <div class="thinking-text" tabindex="0" role="region" aria-label="Thinking">${text}</div>
</details>`;

/** @param {{agent: Agent, view: SessionView, retry: ((agentId: string) => void) | null, named: boolean}} props */
function Seat({ agent, view, retry, named }) {
  const id = agent.agent_id;
  const call = view.calls.opinions[id];
  const reached = call?.state ?? agent.state ?? "waiting";
  const stopped = isEnded(view.session) && reached !== "done" && reached !== "failed";
  const state = stopped ? "cancelled" : reached;
  const growing = state === "running";
  const text = call?.answer || agent.opinion || "";
  const error = state === "failed" ? errorText(call?.error ?? agent.error) : "";
  const rank = (view.session.ranking ?? []).find((one) => one.agent_id === id);
  const ballotFailed = agent.review_state === "failed";
  return html`<section class=${`seat ${state} ${rank?.rank === 1 ? "first" : ""}`} aria-label=${`Seat ${seatNumber(id)}: ${agent.model}`} aria-busy=${growing}>
    <header>
      <${SeatBadge} agentId=${id} />
      <div class="seat-name"><strong>${named ? agent.model : `Seat ${seatNumber(id)}`}</strong>${named && agent.persona && html`<span class="tag">${agent.persona}</span>`}</div>
      ${rank && html`<span class="rank-tag number" title="Rank by the reviews">#${rank.rank}</span>`}
      <${StatePill} state=${state} detail=${call?.state === "queued" ? queuePlace(call) : ""} />
    </header>
    ${call && html`<${SeatFigures} call=${named ? call : { ...call, node: null }} />`}
    ${(call?.restarts ?? []).map((restart, index) => html`<p class="note" key=${index}>Began anew on ${restart.to_node}${restart.from_node ? `, ${restart.from_node} was lost` : ""}${restart.reason ? `: ${restart.reason}` : ""}</p>`)}
    ${call?.thinking && html`<${Thinking} text=${call.thinking} growing=${growing && !text} />`}
    ${error && html`<p class="seat-error" role="note"><${Icon} name="warning" /><span>${error}</span></p>`}
    ${text ? html`<${FollowingBox} label=${`Answer of seat ${seatNumber(id)}`} growing=${growing}><${AnswerText} text=${text} growing=${growing} /><//>`
      : !error && !isEnded(view.session) && html`<div class="skeleton"><i></i><i></i><i></i></div>`}
    <footer>
      ${text && !growing && html`<${CopyButton} text=${text} />`}
      ${retry && (state === "failed" || stopped || ballotFailed) && html`
        <button type="button" onClick=${() => retry(id)}><${Icon} name="retry" />${ballotFailed && state === "done" ? "Retry ballot" : "Retry"}<span class="offscreen"> seat ${seatNumber(id)}</span></button>`}
    </footer>
  </section>`;
}

/** @param {{agents: Agent[], view: SessionView, seat: (agent: Agent) => any}} props */
function Tabs({ agents, view, seat }) {
  const [chosen, setChosen] = useState(agents[0]?.agent_id);
  const base = useId();
  const index = Math.max(0, agents.findIndex((agent) => agent.agent_id === chosen));
  const onKey = (/** @type {any} */ event) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    event.preventDefault();
    const next = (index + step + agents.length) % agents.length;
    setChosen(agents[next].agent_id);
    event.currentTarget.querySelectorAll("[role=tab]")[next]?.focus();
  };
  return html`<div class="tabs" role="tablist" aria-label="Seats" onKeyDown=${onKey}>
      ${agents.map((agent, place) => html`<button type="button" role="tab" key=${agent.agent_id} id=${`${base}-${place}`} aria-controls=${`${base}-panel`}
        aria-selected=${place === index} tabindex=${place === index ? 0 : -1} onClick=${() => setChosen(agent.agent_id)}>
        <i class=${`dot ${view.calls.opinions[agent.agent_id]?.state ?? agent.state}`}></i>${seatNumber(agent.agent_id)}<span>${agent.model}</span></button>`)}
    </div>
    <div role="tabpanel" id=${`${base}-panel`} aria-labelledby=${`${base}-${index}`}>${agents[index] && seat(agents[index])}</div>`;
}

/** @param {{view: SessionView, retry: ((agentId: string) => void) | null}} props */
export function Opinions({ view, retry }) {
  const [named, setNamed] = useState(true);
  const agents = view.session.agents ?? [];
  if (!agents.length) return null;
  const done = agents.filter((agent) => agent.state === "done").length;
  const seat = (/** @type {Agent} */ agent) => html`<${Seat} key=${agent.agent_id} agent=${agent} view=${view} retry=${retry} named=${named} />`;
  return html`<details class="stage" open>
    <summary><${Icon} name="chevron" /><h2>Opinions</h2><span class="hint number">${done} of ${agents.length}</span></summary>
    <div class="stage-tools"><label class="check"><input type="checkbox" checked=${!named} onChange=${() => setNamed(!named)} />Hide the models’ names</label></div>
    ${narrow.value && agents.length > 1
      ? html`<${Tabs} agents=${agents} view=${view} seat=${seat} />`
      : html`<div class=${`seat-grid of-${Math.min(agents.length, 4)}`}>${agents.map(seat)}</div>`}
  </details>`;
}
