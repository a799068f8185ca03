// One job, and one that could not be done.
import { cancelJob, dismissJob, retryJob } from "../background-store.js";
import { when } from "../format.js";
import { html } from "../html.js";
import { archiveLink } from "../router.js";
import { Icon } from "./icons.js";
import { errorText } from "./parts.js";

/** @typedef {import("../wire.js").Job} Job */

const STATES = /** @type {Record<string, string>} */ ({
  queued: "Queued", waiting: "Waiting", running: "Running", cancelling: "Stopping", done: "Done", failed: "Failed", dead: "Dead letter", cancelled: "Cancelled",
});
const PENDING = new Set(["queued", "waiting", "running"]);
const AGAIN = new Set(["dead", "failed", "cancelled"]);

/** @param {string} type */
const named = (type) => type.replaceAll("_", " ").replace(/^./, (first) => first.toUpperCase());

/** The archive that a job is about, where it names one. @param {Job} job */
const about = (job) => (typeof job.input?.archive_id === "string" ? job.input.archive_id : null);

/** @param {{job: Job}} props */
function Head({ job }) {
  const archive = about(job);
  return html`<div class="job-head">
    <span class="job-type">${named(job.type)}</span>
    <span class=${`pill ${job.state}`}><i class="dot"></i>${STATES[job.state] ?? job.state}</span>
    <span class="hint">priority ${job.priority} · ${when(job.ended_at ?? job.started_at ?? job.created_at)}${job.attempts > 1 ? ` · attempt ${job.attempts}` : ""}</span>
    ${archive && html`<a href=${archiveLink(archive)}>Archive</a>`}
  </div>`;
}

/** @param {{job: Job}} props */
export function JobRow({ job }) {
  const { done, total, note } = job.progress;
  const label = `${named(job.type)} of ${when(job.created_at)}`;
  const shows = total > 0 && (job.state === "running" || job.state === "cancelling" || (PENDING.has(job.state) && done > 0));
  return html`<li class="job">
    <div class="job-body"><${Head} job=${job} />
      ${shows && html`<div class="job-progress"><progress max=${total} value=${done} aria-label=${`Progress of ${label}`}></progress>
        <span class="hint number">${done} of ${total}${note && `, ${note}`}</span></div>`}
      ${job.cause && job.state !== "done" && html`<p class="job-cause">${errorText(job.cause)}</p>`}
    </div>
    <div class="job-actions">
      ${PENDING.has(job.state) && html`<button type="button" class="quiet" aria-label=${`Cancel ${label}`} onClick=${() => cancelJob(job)}><${Icon} name="stop" />Cancel</button>`}
      ${AGAIN.has(job.state) && html`<button type="button" class="quiet" aria-label=${`Retry ${label}`} onClick=${() => retryJob(job)}><${Icon} name="retry" />Retry</button>`}
    </div>
  </li>`;
}

/** @param {{job: Job}} props */
export function DeadLetter({ job }) {
  const label = `${named(job.type)} of ${when(job.created_at)}`;
  return html`<li class="job">
    <div class="job-body"><${Head} job=${job} />
      <p class="job-cause">${job.cause ? errorText(job.cause) : "No cause was told."}</p></div>
    <div class="job-actions">
      <button type="button" class="quiet" aria-label=${`Retry dead letter ${label}`} onClick=${() => retryJob(job)}><${Icon} name="retry" />Retry</button>
      <button type="button" class="quiet" aria-label=${`Dismiss dead letter ${label}`} onClick=${() => dismissJob(job)}><${Icon} name="close" />Dismiss</button>
    </div>
  </li>`;
}
