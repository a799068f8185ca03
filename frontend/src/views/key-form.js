// Asked for when the master wants a key: off loopback it always does.
import { useEffect, useRef, useState } from "preact/hooks";
import { api, asProblem } from "../api.js";
import { refreshCluster } from "../cluster-store.js";
import { refreshHistory } from "../history.js";
import { html } from "../html.js";
import { ProblemBanner } from "./parts.js";

export function KeyForm() {
  const [key, setKey] = useState("");
  const [problem, setProblem] = useState(/** @type {import("../wire.js").Problem | null} */ (null));
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  useEffect(() => field.current?.focus(), []);
  /** @param {Event} event */
  const submit = async (event) => {
    event.preventDefault();
    try {
      await api.signIn(key.trim());
      refreshCluster();
      refreshHistory();
    } catch (error) {
      setProblem(asProblem(error));
    }
  };
  return html`
    <form class="card key-form" onSubmit=${submit}>
      <h1>This council asks for a key</h1>
      <p>The person who runs the master has it; <code>council config show</code> tells where it is kept.</p>
      ${problem && html`<${ProblemBanner} problem=${problem} />`}
      <div class="row">
        <label class="offscreen" for="key">Key</label>
        <input id="key" ref=${field} type="password" autocomplete="current-password" value=${key}
          onInput=${(/** @type {any} */ event) => setKey(event.target.value)} />
        <button type="submit" class="primary" disabled=${!key.trim()}>Open</button>
      </div>
    </form>`;
}
