// The frame of the page: sidebar, main part, toasts, and the line for screen readers.
import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { keyWanted } from "../api.js";
import { backgroundEngine } from "../cluster-store.js";
import { html } from "../html.js";
import { spoken, toasts } from "../notices.js";
import { route } from "../router.js";
import { ArchiveView, ArchivesView } from "./archives.js";
import { AskView } from "./ask.js";
import { BackgroundView } from "./background.js";
import { ClusterView } from "./cluster.js";
import { Icon } from "./icons.js";
import { KeyForm } from "./key-form.js";
import { Banner } from "./parts.js";
import { OpenSession } from "./session.js";
import { Sidebar, ThemeButton } from "./sidebar.js";

const drawerOpen = signal(false);

const toMain = () => document.getElementById("main")?.focus({ preventScroll: true });

/** @param {{engine: import("../wire.js").BackgroundEngine}} props */
function BackgroundNotice({ engine }) {
  const down = engine.engines.filter((one) => one.state === "down").map((one) => one.node);
  return html`<${Banner} kind="warning" role="status" title="Background work:">
    <span> ${engine.warning}. ${down.length > 0 && `Down: ${down.join(", ")}. `}</span><a href="#/cluster">Cluster</a>
  <//>`;
}

export function App() {
  const here = route.value;
  const first = useRef(true);
  useEffect(() => {
    drawerOpen.value = false;
    if (!first.current) {
      // Another place begins at its top, for eyes and for screen readers alike.
      scrollTo(0, 0);
      if (here.name !== "ask") toMain();
    }
    first.current = false;
  }, [here]);
  return html`
    <button type="button" class="skip" onClick=${toMain}>Skip to the main part</button>
    <div class="shell">
      <${Sidebar} open=${drawerOpen.value} onClose=${() => { drawerOpen.value = false; }} />
      <div class="page">
        <header class="topbar">
          <button type="button" class="quiet square" aria-label="Open the list of sessions" aria-expanded=${drawerOpen.value}
            onClick=${() => { drawerOpen.value = true; }}><${Icon} name="menu" /></button>
          <a class="brand" href="#/">LAN Council</a>
          <${ThemeButton} />
        </header>
        <main id="main" tabindex="-1">
          ${backgroundEngine.value?.warning && html`<${BackgroundNotice} engine=${backgroundEngine.value} />`}
          ${keyWanted.value ? html`<${KeyForm} />`
            : here.name === "session" ? html`<${OpenSession} key=${here.id} id=${here.id} />`
            : here.name === "cluster" ? html`<${ClusterView} />`
            : here.name === "background" ? html`<${BackgroundView} />`
            : here.name === "archives" ? html`<${ArchivesView} />`
            : here.name === "archive" ? html`<${ArchiveView} key=${here.id} id=${here.id} />` : html`<${AskView} />`}
        </main>
      </div>
    </div>
    <div class="toasts" role="region" aria-label="Notices">
      ${toasts.value.map((toast) => html`
        <div class=${`toast ${toast.kind}`} key=${toast.id} role="status">
          <span>${toast.text}</span>
          ${toast.action && html`<button type="button" class="link" onClick=${toast.action.run}>${toast.action.label}</button>`}
        </div>`)}
    </div>
    <div class="offscreen" aria-live="polite" id="spoken">${spoken.value}</div>`;
}
