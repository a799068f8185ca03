// Who sits in the council: seats with a model and perhaps a persona, and the chairman.
import { chatModels, nodeNames } from "../cluster-store.js";
import { bytes, plural } from "../format.js";
import { html } from "../html.js";
import { MOST_SEATS, addSeat, change, changeSeat, draft, removeSeat } from "../seats.js";
import { Icon } from "./icons.js";

const PERSONAS = ["sceptic", "optimist", "pragmatist", "domain expert", "teacher", "devil’s advocate"];

/** @param {import("../wire.js").Model} model */
const about = (model) => [bytes(model.size), plural(nodeNames(model).length, "node")].filter(Boolean).join(" · ");

/** @param {{value: string, onChange: (name: string) => void, label: string, none?: string, id?: string}} props */
function ModelSelect({ value, onChange, label, none, id }) {
  const gone = value && !chatModels.value.some((model) => model.name === value);
  return html`<select id=${id} aria-label=${label} value=${value} onChange=${(/** @type {any} */ event) => onChange(event.target.value)}>
    ${none && html`<option value="">${none}</option>`}
    ${gone && html`<option value=${value} selected>${value} (not available now)</option>`}
    ${chatModels.value.map((model) => html`<option value=${model.name} key=${model.name} selected=${model.name === value}>${model.name}</option>`)}
  </select>`;
}

function SeatRows() {
  return html`<ol class="seat-rows">
    ${draft.value.seats.map((seat, index) => html`
      <li key=${seat.key}>
        <span class="seat-badge" aria-hidden="true">${index + 1}</span>
        <${ModelSelect} label=${`Model of seat ${index + 1}`} value=${seat.model} onChange=${(/** @type {string} */ model) => changeSeat(seat.key, { model })} />
        <input type="text" list="personas" maxlength="200" placeholder="Persona (optional)" aria-label=${`Persona of seat ${index + 1}`}
          value=${seat.persona} onInput=${(/** @type {any} */ event) => changeSeat(seat.key, { persona: event.target.value })} />
        <button type="button" class="quiet square" aria-label=${`Remove seat ${index + 1}`} onClick=${() => removeSeat(seat.key)}>
          <${Icon} name="close" /></button>
      </li>`)}
  </ol>
  <datalist id="personas">${PERSONAS.map((name) => html`<option value=${name} key=${name}></option>`)}</datalist>`;
}

function AddSeat() {
  const full = draft.value.seats.length >= MOST_SEATS;
  return html`<div class="add-seats" role="group" aria-label="Add a seat">
    ${chatModels.value.map((model) => html`
      <button type="button" class="chip" key=${model.name} disabled=${full} onClick=${() => addSeat(model.name)}
        aria-label=${`Add a seat with ${model.name}`}>
        <${Icon} name="plus" /><span>${model.name}</span><small>${about(model)}</small>
        ${model.practice && html`<span class="tag warn">practice</span>`}
        ${model.resident && html`<i class="dot healthy" title="in memory"></i>`}
      </button>`)}
  </div>`;
}

function Options() {
  const { temperature, quorum, fallback, cache } = draft.value;
  return html`<details class="options">
    <summary><${Icon} name="chevron" />More options</summary>
    <div class="option-grid">
      <label>Temperature<input type="number" min="0" max="2" step="0.1" placeholder="the model’s own" value=${temperature}
        onInput=${(/** @type {any} */ event) => change({ temperature: event.target.value })} /></label>
      <label>Quorum<input type="number" min="1" max="16" step="1" placeholder="1" value=${quorum}
        onInput=${(/** @type {any} */ event) => change({ quorum: event.target.value })} /></label>
      <label>Fallback chairman<${ModelSelect} label="Fallback chairman" none="None" value=${fallback}
        onChange=${(/** @type {string} */ name) => change({ fallback: name })} /></label>
      <label class="check"><input type="checkbox" checked=${cache}
        onChange=${(/** @type {any} */ event) => change({ cache: event.target.checked })} />Answer identical calls from the cache</label>
    </div>
  </details>`;
}

export function Seats() {
  const { mode, chairman } = draft.value;
  if (!chatModels.value.length) {
    return html`<section class="card empty"><h2>No model is ready yet</h2>
      <p>Get one with <code>council models get qwen2.5:0.5b</code>, or start Ollama on one of the machines.
        Without one, practice models answer: real streaming, meaningless text.</p></section>`;
  }
  return html`<section class="card seats" aria-labelledby="seats-title">
    <div class="card-head">
      <h2 id="seats-title">Seats</h2>
      <div class="segmented" role="group" aria-label="Who chooses the seats">
        <button type="button" aria-pressed=${mode === "chosen"} onClick=${() => change({ mode: "chosen" })}>I choose</button>
        <button type="button" aria-pressed=${mode === "auto"} onClick=${() => change({ mode: "auto" })}>The cluster chooses</button>
      </div>
    </div>
    ${mode === "auto"
      ? html`<p class="hint">The cluster picks models that fit the question and the machines that are free.</p>`
      : html`<${SeatRows} /><h3 class="small-title">Add a seat <span class="hint">up to ${MOST_SEATS}; a model may sit more than once</span></h3><${AddSeat} />`}
    <div class="chairman-row">
      <label for="chairman"><strong>Chairman</strong><span class="hint">writes the final answer</span></label>
      <${ModelSelect} id="chairman" label="Chairman" none="The cluster chooses" value=${chairman}
        onChange=${(/** @type {string} */ name) => change({ chairman: name })} />
    </div>
    <${Options} />
  </section>`;
}
