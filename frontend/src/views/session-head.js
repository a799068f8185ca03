// The top of a session: the question, what can be done with it, and the way through the stages.
import { useState } from "preact/hooks";
import { sessionPath } from "../api.js";
import { count, duration, plural, when } from "../format.js";
import { html } from "../html.js";
import { STAGES, isEnded } from "../session-state.js";
import { Icon } from "./icons.js";
import { ArchiveButton, Elapsed } from "./parts.js";

const LONG_QUESTION = 280;
const STAGE_NAMES = { opinions: "Opinions", review: "Review", synthesis: "Synthesis" };

/** @param {{text: string}} props */
function Question({ text }) {
  const [whole, setWhole] = useState(false);
  const long = text.length > LONG_QUESTION;
  return html`<h1 id="session-question" class=${`question ${long ? "long" : ""}`}>${long && !whole ? `${text.slice(0, LONG_QUESTION)}…` : text}</h1>
    ${long && html`<button type="button" class="link" aria-expanded=${whole} onClick=${() => setWhole(!whole)}>${whole ? "Show less" : "Show the whole question"}</button>`}`;
}

/** @param {{view: import("../session-state.js").SessionView}} props */
function Steps({ view }) {
  const ended = isEnded(view.session);
  return html`<ol class="steps" aria-label="Stages">
    ${STAGES.map((stage) => {
      const { state, started_at, duration_ms } = view.stages[stage];
      const shown = state === "running" && ended ? "stopped" : state;
      const skipped = ended && shown === "waiting";
      return html`<li key=${stage} class=${shown} aria-current=${shown === "running" ? "step" : undefined}>
        <span class="step-mark">${shown === "done" && html`<${Icon} name="check" />`}</span>
        <span class="step-name">${STAGE_NAMES[stage]}</span>
        <span class="step-time number">${shown === "running" ? html`<${Elapsed} since=${started_at} />`
          : shown === "done" ? duration_ms != null && duration(duration_ms) : shown === "stopped" ? "stopped" : skipped ? "not run" : ""}</span>
      </li>`;
    })}
  </ol>`;
}

/** @param {{view: import("../session-state.js").SessionView}} props */
function Meta({ view }) {
  const { session } = view;
  const total = session.token_usage?.total_tokens;
  const time = session.latency_stats?.total_duration_ms;
  const ended = isEnded(session);
  return html`<p class="meta">
    <span>${when(session.created_at)}</span>
    <span>${plural(session.agents?.length ?? 0, "seat")}</span>
    ${session.chairman && html`<span>chairman ${session.chairman}</span>`}
    ${ended ? time ? html`<span class="number">${duration(time)}</span>` : null : html`<span><${Elapsed} since=${view.started_at} /></span>`}
    ${total ? html`<span class="number">${count(total)} tokens</span>` : null}
    ${(session.run ?? 1) > 1 && html`<span>run ${session.run}</span>`}
    ${session.cached && html`<span>from the cache</span>`}
  </p>`;
}

/** @param {{view: import("../session-state.js").SessionView, stopping: boolean, onStop: () => void, onDelete: () => void}} props */
export function SessionHead({ view, stopping, onStop, onDelete }) {
  const { session } = view;
  const path = sessionPath(session.id);
  return html`<header class="session-head">
    <${Question} text=${session.question} />
    <div class="head-line">
      <${Meta} view=${view} />
      <div class="actions">
        ${isEnded(session)
          ? html`<${ArchiveButton} what=${{ session_id: session.id }} />
              <a class="button quiet" href=${`${path}/export?format=md`} download><${Icon} name="download" />Markdown</a>
              <a class="button quiet" href=${`${path}/export?format=json`} download><${Icon} name="download" />JSON</a>`
          : html`<button type="button" class="stop" disabled=${stopping} onClick=${onStop}><${Icon} name="stop" />${stopping ? "Stopping…" : "Stop"}</button>`}
        <button type="button" class="quiet" onClick=${onDelete}><${Icon} name="bin" />Delete</button>
      </div>
    </div>
    <${Steps} view=${view} />
  </header>`;
}
