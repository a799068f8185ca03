// Stage 2: who gave whom which score and why, and the order that follows from it.
import { useState } from "preact/hooks";
import { decimal } from "../format.js";
import { html } from "../html.js";
import { isEnded } from "../session-state.js";
import { Icon } from "./icons.js";
import { Banner, Elapsed, SeatBadge, StatePill, errorText, queuePlace, queueWait, seatName, seatNumber } from "./parts.js";

/** @typedef {import("../session-state.js").SessionView} SessionView */
/** @typedef {import("../wire.js").CouncilSession} CouncilSession */
/** @typedef {{reviewer: string, agent_id: string}} Cell */

/** @param {{session: CouncilSession, picked: Cell | null, pick: (cell: Cell) => void}} props */
function Matrix({ session, picked, pick }) {
  const agents = session.agents ?? [];
  const answers = agents.filter((agent) => agent.state === "done" || (session.ballots ?? []).some((ballot) =>
    ballot.rankings.some((entry) => entry.agent_id === agent.agent_id)));
  return html`<div class="table-box" tabindex="0" role="region" aria-label="Ballots">
    <table class="matrix">
      <caption class="offscreen">Scores from 1 to 10: a row per reviewer, a column per answer</caption>
      <thead><tr><th scope="col" class="corner">Reviewer</th>
        ${answers.map((agent) => html`<th scope="col" key=${agent.agent_id} title=${agent.model}><${SeatBadge} agentId=${agent.agent_id} /><span class="offscreen">answer of ${seatName(agent.agent_id, agents)}</span></th>`)}</tr></thead>
      <tbody>${(session.ballots ?? []).map((ballot) => html`<tr key=${ballot.reviewer}>
        <th scope="row"><${SeatBadge} agentId=${ballot.reviewer} /><span class="model-name">${agents.find((agent) => agent.agent_id === ballot.reviewer)?.model ?? ballot.reviewer}</span></th>
        ${ballot.abstained
          ? html`<td class="abstained" colspan=${answers.length}>abstained</td>`
          : answers.map(({ agent_id }) => {
            const entry = ballot.rankings.find((one) => one.agent_id === agent_id);
            if (!entry) {
              const own = agent_id === ballot.reviewer;
              return html`<td key=${agent_id} class=${own ? "own" : ""} title=${own ? "own answer: not reviewed" : "no score"}><span aria-hidden="true">–</span><span class="offscreen">${own ? "own answer" : "no score"}</span></td>`;
            }
            const cell = { reviewer: ballot.reviewer, agent_id };
            const on = picked?.reviewer === cell.reviewer && picked?.agent_id === agent_id;
            return html`<td key=${agent_id}><button type="button" class=${`score s${entry.score}`} aria-pressed=${on} aria-describedby="reasoning"
              onMouseEnter=${() => pick(cell)} onFocus=${() => pick(cell)} onClick=${() => pick(cell)}>${entry.score}</button></td>`;
          })}
      </tr>`)}</tbody>
    </table>
  </div>`;
}

/** @param {{session: CouncilSession, picked: Cell | null}} props */
function Reasoning({ session, picked }) {
  const agents = session.agents ?? [];
  const entry = picked && (session.ballots ?? []).find((ballot) => ballot.reviewer === picked.reviewer)
    ?.rankings.find((one) => one.agent_id === picked.agent_id);
  return html`<div class="reasoning" id="reasoning" aria-live="polite">
    ${picked && entry ? html`<p class="byline"><${SeatBadge} agentId=${picked.reviewer} /><span class="offscreen">${seatName(picked.reviewer, agents)}</span> on <${SeatBadge} agentId=${picked.agent_id} />
        <span class="offscreen">${seatName(picked.agent_id, agents)}</span><strong class="number">${entry.score} of 10</strong></p><p>${entry.reasoning || "No reasoning was given."}</p>`
      : html`<p class="hint">Point at a score, or move to it with Tab, to read the reasoning.</p>`}
  </div>`;
}

/** @param {{session: CouncilSession}} props */
function Ranking({ session }) {
  const agents = session.agents ?? [];
  const ranking = [...(session.ranking ?? [])].sort((a, b) => a.rank - b.rank);
  if (!ranking.length) return null;
  const tied = (/** @type {number} */ rank) => ranking.filter((one) => one.rank === rank).length > 1;
  return html`<div class="table-box" tabindex="0" role="region" aria-label="Ranking"><table class="figures ranking">
    <thead><tr><th scope="col">Rank</th><th scope="col" class="text">Answer</th><th scope="col">Borda</th><th scope="col">Mean score</th><th scope="col">Votes</th></tr></thead>
    <tbody>${ranking.map((one) => html`<tr key=${one.agent_id} class=${one.rank === 1 ? "first" : ""}>
      <td class="rank">${one.rank}${tied(one.rank) && html`<small class="tie"> tie</small>`}</td>
      <th scope="row" class="text"><${SeatBadge} agentId=${one.agent_id} />${agents.find((agent) => agent.agent_id === one.agent_id)?.model ?? one.agent_id}</th>
      <td>${one.borda == null ? "–" : html`<meter min="0" max="1" value=${one.borda} aria-hidden="true"></meter>${one.borda.toFixed(2)}`}</td>
      <td>${decimal(one.mean_score)}</td><td>${one.votes}</td></tr>`)}</tbody>
  </table></div>`;
}

/** @param {{view: SessionView}} props */
function Reviewers({ view }) {
  const agents = view.session.agents ?? [];
  return html`<ul class="reviewers">${agents.map((agent) => {
    const call = view.calls.review[agent.agent_id];
    const state = agent.review_state ?? "waiting";
    return html`<li key=${agent.agent_id}><${SeatBadge} agentId=${agent.agent_id} /><span class="model-name">${agent.model}</span>
      ${call?.node && html`<span class="hint">${call.node}</span>`}
      ${state === "queued" && queueWait(call) && html`<span class="hint">${queueWait(call)}</span>`}
      ${state === "running" && html`<span class="hint"><${Elapsed} since=${call?.started_at ?? null} /></span>`}
      ${state === "failed" && call?.error && html`<span class="hint">${errorText(call.error)}</span>`}
      <${StatePill} state=${state} detail=${state === "queued" ? queuePlace(call) : ""} /></li>`;
  })}</ul>`;
}

/** @param {{session: CouncilSession}} props */
function Agreement({ session }) {
  if (session.agreement == null) return null;
  return html`<p class="agreement"><span>Agreement of the reviewers</span>
    <meter min="0" max="1" value=${session.agreement} aria-hidden="true"></meter><strong class="number">${session.agreement.toFixed(2)}</strong></p>`;
}

/** @param {{view: SessionView}} props */
export function Review({ view }) {
  const { session } = view;
  const [picked, pick] = useState(/** @type {Cell | null} */ (null));
  const ballots = session.ballots ?? [];
  const begun = view.stages.review.state !== "waiting" || ballots.length > 0 || (session.ranking ?? []).length > 0;
  if (!begun) return null;
  const running = view.stages.review.state === "running" && !isEnded(session);
  const abstained = ballots.filter((ballot) => ballot.abstained);
  return html`<details class="stage" open>
    <summary><${Icon} name="chevron" /><h2>Review</h2>
      <span class="hint number">${ballots.length - abstained.length} ${ballots.length - abstained.length === 1 ? "ballot" : "ballots"}${abstained.length ? `, ${abstained.length} abstained` : ""}</span>
      ${session.contested && html`<span class="tag warn">contested</span>`}</summary>
    ${session.contested && html`<${Banner} kind="warning" title="Contested:"> the reviewers do not agree on the order. Read the answers yourself.<//>`}
    ${running && html`<${Reviewers} view=${view} />`}
    ${ballots.length > 0 && html`<div class="review-grid">
      <div class="card"><h3>Ballots</h3><${Matrix} session=${session} picked=${picked} pick=${pick} /><${Reasoning} session=${session} picked=${picked} />
        ${abstained.map((ballot) => html`<p class="hint abstentions" key=${ballot.reviewer}>Seat ${seatNumber(ballot.reviewer)} abstained${ballot.reason ? `: ${ballot.reason}` : ""}.</p>`)}</div>
      ${(session.ranking ?? []).length > 0 && html`<div class="card"><h3>Ranking</h3><${Ranking} session=${session} /><${Agreement} session=${session} /></div>`}
    </div>`}
  </details>`;
}
