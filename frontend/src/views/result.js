// What the council came to: how complete it is, the final answer, and the best single answer beside it.
import { listed } from "../format.js";
import { html } from "../html.js";
import { isEnded } from "../session-state.js";
import { AnswerText } from "./answer-text.js";
import { Icon } from "./icons.js";
import { Banner, CopyButton, Elapsed, ProblemBanner, SeatBadge, StatePill, errorText, noteText, seatName } from "./parts.js";

/** @typedef {import("../session-state.js").SessionView} SessionView */
/** @typedef {import("../wire.js").CouncilSession} CouncilSession */

const KINDS = {
  chairman: { title: "Final answer", kind: "Synthesis by the chairman" },
  fallback_chairman: { title: "Final answer", kind: "Synthesis by a fallback chairman" },
  top_ranked: { title: "Top-ranked answer", kind: "No chairman could answer: this is the best-ranked opinion, word for word" },
};

/** Practice, warnings and what was trimmed. @param {{session: CouncilSession}} props */
export function Notes({ session }) {
  const trimmed = session.trimmed ?? [];
  const warnings = session.warnings ?? [];
  return html`
    ${session.practice && html`<${Banner} kind="warning" title="Practice models: the text is meaningless.">
      ${" "}Streaming, ballots and figures are real. For a real model run <code>council models get qwen2.5:0.5b</code>, or start Ollama.<//>`}
    ${warnings.length > 0 && html`<${Banner} kind="warning" title=${warnings.length === 1 ? "Warning:" : "Warnings:"}>
      ${" "}${warnings.length === 1 ? noteText(warnings[0]) : html`<ul>${warnings.map((note, index) => html`<li key=${index}>${noteText(note)}</li>`)}</ul>`}<//>`}
    ${trimmed.length > 0 && html`<${Banner} title="Text was trimmed to fit a model’s context:">
      ${" "}${trimmed.length === 1 ? noteText(trimmed[0]) : html`<ul>${trimmed.map((note, index) => html`<li key=${index}>${noteText(note)}</li>`)}</ul>`}<//>`}`;
}

/** @param {{session: CouncilSession}} props */
function ResultBanner({ session }) {
  const agents = session.agents ?? [];
  const missing = (session.missing_agents ?? []).map((id) => seatName(id, agents));
  if (session.state === "failed") {
    const error = session.error;
    return html`<${ProblemBanner} problem=${typeof error === "string" || !error ? { title: "The council failed", detail: error ?? undefined } : { title: "The council failed", ...error }} />`;
  }
  if (session.state === "cancelled") return html`<${Banner} kind="warning" title="Stopped."> What had been said until then is kept below.<//>`;
  if (session.result === "full") {
    return html`<${Banner} kind="good" title="Full result."> All ${agents.length} seats answered.<//>`;
  }
  if (session.result === "degraded") {
    return html`<${Banner} kind="warning" title="Degraded result.">${" "}${missing.length
      ? `Missing: ${listed(missing)}.` : "Not every part of the council worked."}<//>`;
  }
  if (session.result === "single") {
    return html`<${Banner} kind="warning" title="Single voice."> One answer, no review${missing.length ? `; missing: ${listed(missing)}` : ""}.<//>`;
  }
  return null;
}

/** The text that stands first, or nothing yet. @param {SessionView} view */
function finalAnswer({ session, calls }) {
  const call = calls.synthesis.chairman;
  if (session.synthesis) {
    const words = KINDS[session.synthesis.kind] ?? KINDS.chairman;
    return { ...words, text: session.synthesis.text, model: session.synthesis.model, node: session.synthesis.node, call, growing: false };
  }
  if (call && call.state !== "failed" && (call.answer || !isEnded(session))) {
    const writing = call.state !== "done" && !isEnded(session);
    const kind = writing ? "The chairman is writing" : isEnded(session) && session.state !== "completed" ? "Unfinished text of the chairman" : "Synthesis by the chairman";
    return { title: "Final answer", kind, text: call.answer, model: call.model, node: call.node, call, growing: writing };
  }
  if (session.state !== "completed") return null;
  const agents = session.agents ?? [];
  const agent = agents.find((one) => one.agent_id === session.top_answer) ?? agents.find((one) => one.state === "done");
  const text = agent && (agent.opinion ?? calls.opinions[agent.agent_id]?.answer);
  if (!agent || !text) return null;
  return {
    title: session.result === "single" ? "The one answer" : "Top-ranked answer", kind: `Opinion of ${seatName(agent.agent_id, agents)}, as given`,
    text, model: agent.model, node: agent.node, call: undefined, growing: false,
  };
}

/** @param {{view: SessionView}} props */
function TopAnswer({ view }) {
  const { session, calls } = view;
  const agents = session.agents ?? [];
  const id = session.top_answer ?? "";
  const agent = agents.find((one) => one.agent_id === id);
  const text = agent?.opinion ?? calls.opinions[id]?.answer;
  if (!agent || !text || !session.synthesis || session.synthesis.kind === "top_ranked" || agents.length < 2) return null;
  const rank = (session.ranking ?? []).find((one) => one.agent_id === id);
  const tied = (session.ranking ?? []).filter((one) => one.rank === rank?.rank).length > 1;
  return html`<section class="card top-answer" aria-labelledby="top-title">
    <div class="card-head"><h2 id="top-title">Top-ranked answer</h2><${CopyButton} text=${text} /></div>
    <p class="byline"><${SeatBadge} agentId=${id} /><strong>${agent.model}</strong>${agent.persona && html`<span class="tag">${agent.persona}</span>`}
      ${rank?.mean_score != null && html`<span class="number">mean score ${rank.mean_score.toFixed(1)}</span>`}
      ${tied && html`<span>tied for first</span>`}</p>
    <div class="text-box tall" tabindex="0" role="region" aria-label="Top-ranked answer"><${AnswerText} text=${text} /></div>
  </section>`;
}

/** @param {{view: SessionView, retry: ((agentId: string) => void) | null}} props */
export function Result({ view, retry }) {
  const { session, calls } = view;
  const answer = finalAnswer(view);
  const chairman = calls.synthesis.chairman;
  const kind = session.synthesis?.kind;
  const again = retry && (chairman?.state === "failed" || kind === "fallback_chairman" || kind === "top_ranked");
  const failed = chairman?.state === "failed" && errorText(chairman.error);
  return html`
    ${isEnded(session) && html`<${ResultBanner} session=${session} />`}
    ${answer && html`<div class="result">
      <section class="card final" aria-labelledby="final-title" aria-busy=${answer.growing}>
        <div class="card-head">
          <h2 id="final-title">${answer.title}</h2>
          <div class="actions">
            ${answer.growing && html`<${StatePill} state=${answer.call?.state ?? "running"} />`}
            ${again && html`<button type="button" onClick=${() => retry("chairman")}><${Icon} name="retry" />Retry chairman</button>`}
            ${answer.text && !answer.growing && html`<${CopyButton} text=${answer.text} />`}
          </div>
        </div>
        <p class="byline">${answer.kind}
          ${answer.model && html`<strong>${answer.model}</strong>`}${answer.node && html`<span>on ${answer.node}</span>`}
          ${answer.growing && html`<${Elapsed} since=${answer.call?.started_at ?? null} />`}</p>
        ${(answer.call?.restarts ?? []).map((restart, index) => html`<p class="note" key=${index}>Restarted on ${restart.to_node}: ${restart.reason}</p>`)}
        ${failed && html`<p class="note">The chairman failed: ${failed}</p>`}
        ${answer.call?.thinking && html`<details class="thinking"><summary><${Icon} name="chevron" />Thinking</summary><div class="thinking-text">${answer.call.thinking}</div></details>`}
        ${answer.text ? html`<${AnswerText} text=${answer.text} growing=${answer.growing} />` : html`<div class="skeleton"><i></i><i></i><i></i></div>`}
      </section>
      <${TopAnswer} view=${view} />
    </div>`}`;
}
