// The sidebar: a new question, the sessions so far, the cluster's health, the theme.
import { useEffect, useRef } from "preact/hooks";
import { keyWanted } from "../api.js";
import { health } from "../cluster-store.js";
import { when } from "../format.js";
import {
  deleteSession, leaving, listProblem, loaded, loadMore, nextCursor, search, searchFor, sessions,
} from "../history.js";
import { html } from "../html.js";
import { go, route, sessionLink } from "../router.js";
import { dark, toggleTheme } from "../theme.js";
import { Icon } from "./icons.js";

export const ThemeButton = () => html`
  <button type="button" class="quiet square" onClick=${toggleTheme}
    aria-label=${dark.value ? "Use the light theme" : "Use the dark theme"}>
    <${Icon} name=${dark.value ? "sun" : "moon"} />
  </button>`;

/** @param {import("../wire.js").CouncilSession} session */
function stateWord(session) {
  if (session.state === "completed") return session.result && session.result !== "full" ? session.result : "completed";
  return session.state === "cancelled" ? "stopped" : session.state;
}

/** @param {{session: import("../wire.js").CouncilSession}} props */
function Entry({ session }) {
  const here = route.value;
  const open = here.name === "session" && here.id === session.id;
  const remove = () => {
    deleteSession(session.id);
    if (open) go("#/");
  };
  return html`
    <li class=${`entry ${open ? "open" : ""}`}>
      <a href=${sessionLink(session.id)} aria-current=${open ? "page" : undefined}>
        <span class="entry-question">${session.question}</span>
        <span class="entry-meta"><i class=${`dot ${session.state} ${session.result ?? ""}`}></i>${stateWord(session)} · ${when(session.created_at)}</span>
      </a>
      <button type="button" class="quiet square small" aria-label=${`Delete “${session.question.slice(0, 80)}”`} onClick=${remove}>
        <${Icon} name="bin" /></button>
    </li>`;
}

function Entries() {
  const shown = sessions.value.filter((session) => !leaving.value.has(session.id));
  if (keyWanted.value) return null;
  if (listProblem.value) return html`<p class="hint" role="alert">${listProblem.value.detail ?? listProblem.value.title}</p>`;
  if (!shown.length && loaded.value) {
    return html`<p class="hint">${search.value ? "No session matches." : "Questions you ask are kept here."}</p>`;
  }
  return html`<ul class="entries">${shown.map((session) => html`<${Entry} key=${session.id} session=${session} />`)}</ul>
    ${nextCursor.value && html`<button type="button" class="quiet more" onClick=${loadMore}>Show more</button>`}`;
}

/** @param {{name: string, icon: string, children?: any}} props */
const Place = ({ name, icon, children }) => html`
  <li><a class="quiet button" href=${`#/${name}`} aria-current=${route.value.name === name ? "page" : undefined}>
    <${Icon} name=${icon} />${children}</a></li>`;

/** @param {{open: boolean, onClose: () => void}} props */
export function Sidebar({ open, onClose }) {
  const panel = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    if (!open) return undefined;
    panel.current?.querySelector("a")?.focus();
    const onKey = (/** @type {KeyboardEvent} */ event) => event.key === "Escape" && onClose();
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, [open]);
  const state = health.value?.status ?? "unhealthy";
  return html`
    ${open && html`<div class="backdrop" onClick=${onClose}></div>`}
    <nav class=${`sidebar ${open ? "shown" : ""}`} aria-label="Sessions" ref=${panel}>
      <div class="sidebar-head">
        <a class="brand" href="#/"><img src="./assets/icon.svg" alt="" width="26" height="26" />LAN Council</a>
        <button type="button" class="quiet square only-phone" aria-label="Close" onClick=${onClose}><${Icon} name="close" /></button>
      </div>
      <a class="button primary wide" href="#/"><${Icon} name="plus" />New question</a>
      <div class="search">
        <${Icon} name="search" />
        <input type="search" aria-label="Search sessions" placeholder="Search sessions" value=${search.value}
          onInput=${(/** @type {any} */ event) => searchFor(event.target.value)} />
      </div>
      <div class="scroller"><${Entries} /></div>
      <div class="sidebar-foot">
        <ul class="places">
          <${Place} name="archives" icon="archive">Archives<//>
          <${Place} name="background" icon="clock">Background work<//>
          <${Place} name="cluster" icon="cluster">Cluster <i class=${`dot ${state}`}></i><span class="offscreen">${state}</span><//>
        </ul>
        <${ThemeButton} />
      </div>
    </nav>`;
}
