// The archives: what was kept of conversations, and one of them to read.
import { useEffect, useState } from "preact/hooks";
import { api, archivePath, asProblem } from "../api.js";
import { archiveSearch, archives, archivesLoaded, archivesProblem, moreArchives, nextArchives, refreshArchives, searchArchives } from "../archives-store.js";
import { count, plural, when } from "../format.js";
import { html } from "../html.js";
import { toast } from "../notices.js";
import { archiveLink, go, sessionLink } from "../router.js";
import { AnswerText } from "./answer-text.js";
import { Icon } from "./icons.js";
import { Banner, ProblemBanner, errorText } from "./parts.js";

/** @typedef {import("../wire.js").Archive} Archive */

const STATES = /** @type {Record<string, string>} */ ({
  stored: "Stored", queued: "Queued", running: "Being structured", structured: "Structured", failed: "Failed",
});
const PILLS = /** @type {Record<string, string>} */ ({ structured: "done", running: "running", queued: "queued", failed: "failed", stored: "" });
const EVERY_MS = 4000;

/** @param {{archive: Archive}} props */
const Status = ({ archive }) => html`<span class=${`pill ${PILLS[archive.status] ?? ""}`}><i class="dot"></i>${STATES[archive.status] ?? archive.status}${
  archive.status === "running" && archive.chunks_total > 1 ? ` ${archive.watermark} of ${archive.chunks_total}` : ""}</span>`;

/** @param {{archive: Archive}} props */
function Line({ archive }) {
  return html`<li class="card archive-line">
    <div class="card-head"><h2><a href=${archiveLink(archive.id)}>${archive.title || "Without a title"}</a></h2><${Status} archive=${archive} /></div>
    <p>${archive.quick_summary}</p>
    <p class="meta"><span>${when(archive.created_at)}</span><span>${plural(archive.messages_count, "message")}</span>
      ${archive.items_count > 0 && html`<span>${plural(archive.items_count, "item")}</span>`}
      ${archive.practice && html`<span class="tag warn">practice</span>`}</p>
  </li>`;
}

export function ArchivesView() {
  useEffect(() => {
    document.title = "Archives · LAN Council";
    refreshArchives();
  }, []);
  return html`<div class="cluster archives">
    <h1>Archives</h1>
    <div class="search"><${Icon} name="search" /><input type="search" aria-label="Search archives" placeholder="Search archives" value=${archiveSearch.value}
      onInput=${(/** @type {any} */ event) => searchArchives(event.target.value)} /></div>
    ${archivesProblem.value && html`<${ProblemBanner} problem=${archivesProblem.value} />`}
    ${archives.value.length
      ? html`<ul class="archive-list">${archives.value.map((archive) => html`<${Line} key=${archive.id} archive=${archive} />`)}</ul>
          ${nextArchives.value && html`<button type="button" class="quiet more" onClick=${moreArchives}>Show more</button>`}`
      : archivesLoaded.value && html`<p class="card empty">${archiveSearch.value ? "No archive matches." : "Nothing is archived yet. Open a session and press Archive."}</p>`}
  </div>`;
}

/** @param {{archive: Archive}} props */
function Head({ archive }) {
  const path = archivePath(archive.id);
  const [asked, setAsked] = useState(false);
  const remove = async () => {
    try {
      await api.removeArchive(archive.id);
      toast("Archive deleted");
      go("#/archives");
    } catch (error) {
      toast(`Could not delete: ${asProblem(error).detail ?? asProblem(error).title}`, { kind: "error" });
    }
  };
  return html`<header class="session-head">
    <a href="#/archives" class="hint">Archives</a>
    <h1 class="question">${archive.title || "Without a title"}</h1>
    <div class="head-line">
      <div class="archive-meta"><${Status} archive=${archive} /><p class="meta"><span>${when(archive.created_at)}</span><span>${plural(archive.messages_count, "message")}</span>
        ${archive.token_usage?.total_tokens ? html`<span class="number">${count(archive.token_usage.total_tokens)} tokens</span>` : null}</p></div>
      <div class="actions">
        <a class="button quiet" href=${`${path}/export?format=md`} download><${Icon} name="download" />Markdown</a>
        <a class="button quiet" href=${`${path}/export?format=json`} download><${Icon} name="download" />JSON</a>
        ${asked
          ? html`<button type="button" class="stop" onClick=${remove}>Delete for good</button><button type="button" class="quiet" onClick=${() => setAsked(false)}>Keep</button>`
          : html`<button type="button" class="quiet" onClick=${() => setAsked(true)}><${Icon} name="bin" />Delete</button>`}
      </div>
    </div>
  </header>`;
}

/** @param {{archive: Archive}} props */
function Around({ archive }) {
  const related = archive.related ?? [];
  const sessions = archive.session_ids ?? [];
  return html`
    ${sessions.length > 0 && html`<section class="card"><h2>Sessions</h2><ul>${sessions.map((id, index) => html`
      <li key=${id}><a href=${sessionLink(id)}>${sessions.length > 1 ? `Turn ${index + 1}` : "The session"}</a></li>`)}</ul></section>`}
    ${related.length > 0 && html`<section class="card"><h2>Related archives</h2><ul class="related">${related.map((one) => html`
      <li key=${one.id}><a href=${archiveLink(one.id)}>${one.title}</a> <span class="hint">${one.shared_terms.join(", ")}</span></li>`)}</ul></section>`}`;
}

/** @param {{id: string}} props */
export function ArchiveView({ id }) {
  const [archive, setArchive] = useState(/** @type {Archive | null} */ (null));
  const [problem, setProblem] = useState(/** @type {import("../wire.js").Problem | null} */ (null));
  const ended = archive && (archive.status === "structured" || archive.status === "failed");
  useEffect(() => {
    let gone = false;
    const load = () => api.readArchive(id).then(
      (found) => { if (!gone) { setArchive(found); setProblem(null); document.title = `${found.title} · LAN Council`; } },
      (error) => { if (!gone) setProblem(asProblem(error)); });
    load();
    const timer = ended ? undefined : setInterval(() => !document.hidden && load(), EVERY_MS);
    return () => { gone = true; clearInterval(timer); };
  }, [id, Boolean(ended)]);
  if (problem && !archive) return html`<${ProblemBanner} problem=${problem} />`;
  if (!archive) return html`<p class="loading">Loading…</p>`;
  return html`<article class="cluster archive">
    <${Head} archive=${archive} />
    ${archive.practice && html`<${Banner} kind="warning" title="Practice models: the text is meaningless." />`}
    ${archive.status === "failed" && html`<${Banner} kind="bad" role="alert" title="It could not be structured:"> ${archive.error ? errorText(archive.error) : "see its job."} <a href="#/background">Jobs</a><//>`}
    ${!ended && html`<${Banner} title="Not structured yet."> The conversation is kept; key facts and decisions are drawn out of it when nobody uses the cluster. <a href="#/background">Background work</a><//>`}
    ${archive.superseded_by && html`<${Banner} title="There is a newer archive of this conversation."> <a href=${archiveLink(archive.superseded_by)}>Open it</a><//>`}
    <section class="card" aria-label="Archive"><${AnswerText} text=${body(archive.markdown ?? "")} /></section>
    <${Around} archive=${archive} />
  </article>`;
}

/** Without the metadata and the title at the top, which the head tells. @param {string} markdown */
const body = (markdown) => markdown.replace(/^---\n[\s\S]*?\n---\n+/, "").replace(/^# .*\n+/, "");
