// Where a question is typed: the first one of a conversation, and the ones that follow.
import { useEffect, useRef, useState } from "preact/hooks";
import { api, asProblem } from "../api.js";
import { refreshHistory } from "../history.js";
import { html } from "../html.js";
import { go, sessionLink } from "../router.js";
import { askBody, draft } from "../seats.js";
import { justAsked } from "../session-store.js";
import { Icon } from "./icons.js";
import { ProblemBanner } from "./parts.js";

const isMac = /Mac|iPhone|iPad/.test(navigator.platform);

/**
 * The question's own form; also used for follow-ups.
 * @param {{label: string, placeholder: string, conversationId?: string | null, text: string,
 *   onText: (text: string) => void, rows?: number, autofocus?: boolean, button?: string}} props
 */
export function QuestionForm({ label, placeholder, conversationId = null, text, onText, rows = 4, autofocus = false, button = "Ask the council" }) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState(/** @type {import("../wire.js").Problem | null} */ (null));
  const area = useRef(/** @type {HTMLTextAreaElement | null} */ (null));
  useEffect(() => {
    if (autofocus) area.current?.focus({ preventScroll: true });
  }, []);
  const ready = text.trim().length > 0 && !busy;
  const submit = async () => {
    if (!ready) return;
    setBusy(true);
    setProblem(null);
    try {
      const session = await api.ask(askBody(text, draft.value, conversationId));
      justAsked.set(session.id, session);
      onText("");
      refreshHistory();
      go(sessionLink(session.id));
    } catch (error) {
      setProblem(asProblem(error));
      setBusy(false);
    }
  };
  const onKey = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      submit();
    }
  };
  return html`
    <form class="question-form" onSubmit=${(/** @type {Event} */ event) => { event.preventDefault(); submit(); }}>
      <label class="offscreen" for="question">${label}</label>
      <textarea id="question" ref=${area} rows=${rows} placeholder=${placeholder} value=${text} onKeyDown=${onKey}
        onInput=${(/** @type {any} */ event) => onText(event.target.value)}></textarea>
      <div class="question-foot">
        <span class="hint">${seatsLine()}</span>
        <kbd class="hint no-phone">${isMac ? "⌘" : "Ctrl"} + Enter</kbd>
        <button type="submit" class="primary" disabled=${!ready}><${Icon} name="send" />${busy ? "Asking…" : button}</button>
      </div>
      ${problem && html`<${ProblemBanner} problem=${problem} />`}
    </form>`;
}

function seatsLine() {
  const { mode, seats, chairman } = draft.value;
  if (mode === "auto" || !seats.length) return "The cluster chooses the seats";
  return `${seats.length} ${seats.length === 1 ? "seat" : "seats"}${chairman ? ` · chairman ${chairman}` : ""}`;
}
