// The cluster: the master's health, the nodes, and the models with where they are.
import { useEffect } from "preact/hooks";
import { clusterLoaded, clusterProblem, health, models, nodeNames, refreshCluster, workers } from "../cluster-store.js";
import { bytes, duration, plural } from "../format.js";
import { html } from "../html.js";
import { Icon } from "./icons.js";
import { Banner, ProblemBanner } from "./parts.js";

/** @param {unknown} part */
const partName = (part) => {
  if (typeof part === "string") return part;
  const { name, kind, version, status } = /** @type {any} */ (part ?? {});
  return [name === "background" && kind ? `${kind} for background` : (kind ?? name ?? "engine"), version, status && `(${status})`].filter(Boolean).join(" ");
};

/** @param {import("../wire.js").Worker["slots"]} slots */
const slotsText = (slots) => {
  if (slots == null) return "";
  if (typeof slots === "number") return plural(slots, "slot");
  return Object.entries(slots).map(([name, amount]) => `${name}: ${amount}`).join(", ");
};

/** @param {{worker: import("../wire.js").Worker}} props */
function Node({ worker }) {
  const held = (worker.models ?? []).map((model) => (typeof model === "string" ? { name: model, resident: false, engine: "main" } : model));
  return html`<article class="card node" aria-label=${`Node ${worker.name}`}>
    <div class="card-head"><h3>${worker.name}</h3><span class=${`pill ${worker.state ?? ""}`}><i class="dot"></i>${worker.state ?? "unknown"}</span></div>
    <dl class="facts">
      ${worker.url && html`<div><dt>Address</dt><dd class="mono">${worker.url}</dd></div>`}
      <div><dt>Engines</dt><dd>${(worker.engines ?? []).map(partName).join(", ") || "none"}</dd></div>
      ${worker.running != null && html`<div><dt>Running</dt><dd>${plural(worker.running, "call")}</dd></div>`}
      ${worker.slots != null && html`<div><dt>Slots</dt><dd>${slotsText(worker.slots)}</dd></div>`}
    </dl>
    ${worker.error && html`<p class="note">${worker.error}</p>`}
    <ul class="tags" aria-label="Models">${held.map((model) => html`<li key=${`${model.engine} ${model.name}`} class=${model.resident ? "resident" : ""}>${model.name}${model.engine === "background" && " (background)"}</li>`)}</ul>
  </article>`;
}

function MasterHealth() {
  const state = health.value;
  if (!state) return html`<${Banner} kind="bad" title="The master does not answer." />`;
  return html`<section class="card" aria-labelledby="master-title">
    <div class="card-head"><h2 id="master-title">Master ${state.name && state.name !== "master" ? state.name : ""}</h2><span class=${`pill ${state.status}`}><i class="dot"></i>${state.status}</span></div>
    <dl class="facts wide">
      ${state.version && html`<div><dt>Version</dt><dd>${state.version}</dd></div>`}
      ${state.uptime_s != null && html`<div><dt>Up for</dt><dd>${duration(state.uptime_s * 1000)}</dd></div>`}
      ${Object.entries(state.checks ?? {}).map(([name, value]) => html`
        <div key=${name}><dt>${name.replaceAll("_", " ")}</dt><dd>${typeof value === "object" ? JSON.stringify(value) : String(value)}</dd></div>`)}
    </dl>
  </section>`;
}

function Models() {
  return html`<section class="card" aria-labelledby="models-title">
    <h2 id="models-title">Models</h2>
    <div class="table-box" tabindex="0" role="region" aria-labelledby="models-title"><table class="figures">
      <thead><tr><th scope="col" class="text">Model</th><th scope="col">Size</th><th scope="col" class="text">Engine</th><th scope="col" class="text">In memory</th><th scope="col">Slots</th><th scope="col" class="text">Nodes</th></tr></thead>
      <tbody>${models.value.map((model) => html`<tr key=${model.name}>
        <th scope="row" class="mono">${model.name}</th><td>${bytes(model.size) || "–"}</td><td class="text">${model.engine ?? "–"}</td>
        <td class="text">${model.resident ? "yes" : "no"}</td><td>${model.slots ?? "–"}</td><td class="text">${nodeNames(model).join(", ") || "–"}</td></tr>`)}</tbody>
    </table></div>
  </section>`;
}

export function ClusterView() {
  useEffect(() => {
    document.title = "Cluster · LAN Council";
    refreshCluster();
  }, []);
  return html`<div class="cluster">
    <div class="card-head"><h1>Cluster</h1>
      <button type="button" onClick=${refreshCluster}><${Icon} name="retry" />Refresh</button></div>
    ${clusterProblem.value && html`<${ProblemBanner} problem=${clusterProblem.value} />`}
    ${clusterLoaded.value && html`<${MasterHealth} />
      <h2 class="section-title">Nodes</h2>
      ${workers.value.length
        ? html`<div class="node-grid">${workers.value.map((worker) => html`<${Node} key=${worker.name} worker=${worker} />`)}</div>`
        : html`<p class="card empty">No node has joined. On another machine: <code>council node start --join URL --token T</code></p>`}
      <${Models} />`}
  </div>`;
}
