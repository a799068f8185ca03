// Background work: why it runs or waits, its jobs, its dead letters, and what it takes of the machines.
import { useEffect } from "preact/hooks";
import {
  backgroundLoaded, backgroundProblem, dead, jobs, moreJobs, nextJobs, replayAll, setPaused, status, watchBackground,
} from "../background-store.js";
import { count, plural, span } from "../format.js";
import { html } from "../html.js";
import { Icon } from "./icons.js";
import { DeadLetter, JobRow } from "./jobs.js";
import { Banner, ProblemBanner } from "./parts.js";
import { UsageCharts } from "./usage-charts.js";

/** @typedef {import("../wire.js").BackgroundStatus} BackgroundStatus */
/** @typedef {import("../wire.js").Gate} Gate */

const GATE_WORDS = /** @type {Record<string, string>} */ ({
  active: "In use", cooling: "Cooling down", idle: "Idle", long_idle: "Long idle", night: "Night", held: "Held",
});

/** "waiting: 142 s until idle" as a sentence. @param {string} reason */
const sentence = (reason) => `${reason.charAt(0).toUpperCase()}${reason.slice(1)}.`;

/** @param {{machine: Gate["nodes"][0]}} props */
function Machine({ machine }) {
  const percent = (/** @type {number | null} */ share) => (share == null ? "–" : `${Math.round(share * 100)} %`);
  return html`<tr>
    <th scope="row" class="text">${machine.node}</th>
    <td class="text"><span class=${`pill gate-${machine.open ? "open" : "shut"}`}><i class="dot"></i>${GATE_WORDS[machine.state] ?? machine.state}</span></td>
    <td>${percent(machine.foreign_cpu)}</td><td>${percent(machine.foreign_memory)}</td>
    <td class="text reason">${machine.reason}</td>
  </tr>`;
}

/** @param {{gate: Gate}} props */
function GateCard({ gate }) {
  const { night, habits, limits } = gate;
  return html`<section class="card gate" aria-labelledby="gate-title">
    <div class="card-head"><h2 id="gate-title">Gate</h2>
      <span class=${`pill gate-${gate.open ? "open" : "shut"}`}><i class="dot"></i>${gate.open ? "Open" : "Shut"} · ${GATE_WORDS[gate.state] ?? gate.state}</span></div>
    <p class="gate-reason" role="status">${sentence(gate.reason)}</p>
    ${gate.open && !gate.open_for_long_jobs && html`<p class="hint">Long jobs: ${gate.reason_for_long_jobs}.</p>`}
    <dl class="facts wide">
      <div><dt>Quiet for</dt><dd>${span(Math.round(gate.quiet_s))}</dd></div>
      <div><dt>Idle after</dt><dd>${span(limits.idle_s)}; long jobs ${span(limits.long_idle_s)}</dd></div>
      <div><dt>Night</dt><dd>${night.enabled ? `${night.start}:00 to ${night.end}:00` : "no window"}</dd></div>
      <div><dt>Usually here</dt><dd>${habits.usual.length ? habits.usual.join("; ") : habits.hours_known < 100 ? "not known yet" : "nobody"}</dd></div>
    </dl>
    ${gate.nodes.length > 0 && html`<div class="table-box" tabindex="0" role="region" aria-label="Machines"><table class="figures">
      <caption class="offscreen">CPU and memory that others take on each machine</caption>
      <thead><tr><th scope="col" class="text">Machine</th><th scope="col" class="text">State</th><th scope="col">CPU of others</th><th scope="col">Memory of others</th><th scope="col" class="text">Why</th></tr></thead>
      <tbody>${gate.nodes.map((machine) => html`<${Machine} key=${machine.node} machine=${machine} />`)}</tbody>
    </table></div>`}
  </section>`;
}

/** @param {{state: BackgroundStatus}} props */
function Queue({ state }) {
  const { jobs: counts, today } = state;
  const listed = jobs.value.filter((job) => job.state !== "dead"); // those have a list of their own
  const waiting = (counts.queued ?? 0) + (counts.waiting ?? 0);
  return html`<section class="card" aria-labelledby="jobs-title">
    <div class="card-head"><h2 id="jobs-title">Jobs</h2>
      <button type="button" class="quiet" onClick=${() => setPaused(!state.paused)}>${state.paused ? "Resume the queue" : "Pause the queue"}</button></div>
    ${state.paused && html`<${Banner} kind="warning" title="The queue is paused."> Nothing new starts until it is resumed.<//>`}
    ${!state.paused && waiting > 0 && state.waiting_for && html`<p class="hint">${plural(waiting, "job")} waiting: ${state.waiting_for.replace(/^waiting: /, "")}.</p>`}
    <p class="hint">Today: ${plural(today.calls, "model call")}${today.max_calls ? ` of ${count(today.max_calls)}` : ""}, ${count(today.total_tokens)}${today.max_tokens ? ` of ${count(today.max_tokens)}` : ""} tokens.</p>
    ${listed.length
      ? html`<ul class="jobs">${listed.map((job) => html`<${JobRow} key=${job.id} job=${job} />`)}</ul>
          ${nextJobs.value && html`<button type="button" class="quiet more" onClick=${moreJobs}>Show more</button>`}`
      : html`<p class="hint">No jobs yet. Archive a session, and the job that structures it is listed here.</p>`}
  </section>`;
}

function DeadLetters() {
  if (!dead.value.length) return null;
  return html`<section class="card" aria-labelledby="dead-title">
    <div class="card-head"><h2 id="dead-title">Dead letters</h2>
      <button type="button" onClick=${replayAll}><${Icon} name="retry" />Retry all</button></div>
    <p class="hint">Jobs that could not be done. They stay here until they are retried or dismissed.</p>
    <ul class="jobs">${dead.value.map((job) => html`<${DeadLetter} key=${job.id} job=${job} />`)}</ul>
  </section>`;
}

export function BackgroundView() {
  useEffect(() => {
    document.title = "Background work · LAN Council";
    return watchBackground();
  }, []);
  const state = status.value;
  return html`<div class="cluster background">
    <h1>Background work</h1>
    ${backgroundProblem.value && html`<${ProblemBanner} problem=${backgroundProblem.value} />`}
    ${!backgroundLoaded.value && html`<p class="loading">Loading…</p>`}
    ${state && html`<${GateCard} gate=${state.gate} />`}
    <${DeadLetters} />
    ${state && html`<${Queue} state=${state} />`}
    ${backgroundLoaded.value && html`<${UsageCharts} />`}
  </div>`;
}
