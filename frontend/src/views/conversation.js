// A session is one turn of a conversation: the turns before it, and the next question.
import { useEffect, useState } from "preact/hooks";
import { api } from "../api.js";
import { chatModels } from "../cluster-store.js";
import { html } from "../html.js";
import { sessionLink } from "../router.js";
import { draft, fitSeats } from "../seats.js";
import { Icon } from "./icons.js";
import { ArchiveButton } from "./parts.js";
import { QuestionForm } from "./question-form.js";

/** @typedef {import("../wire.js").CouncilSession} CouncilSession */

/** @param {{session: CouncilSession}} props */
export function EarlierTurns({ session }) {
  const [turns, setTurns] = useState(/** @type {CouncilSession[]} */ ([]));
  useEffect(() => {
    if (!session.conversation_id) return;
    // Without the list the page is whole; the turns are a convenience.
    api.conversation(session.conversation_id).then((found) => setTurns(found?.sessions ?? []), () => {});
  }, [session.conversation_id, session.id]);
  const earlier = turns.filter((turn) => turn.id !== session.id && (turn.created_at ?? "") < (session.created_at ?? ""));
  if (!earlier.length) return null;
  return html`<nav class="turns" aria-label="Earlier in this conversation">
    <div class="card-head"><h2 class="small-title">Earlier in this conversation</h2>
      <${ArchiveButton} what=${{ conversation_id: session.conversation_id }} label="Archive the conversation" /></div>
    <ol>${earlier.map((turn) => html`<li key=${turn.id}><a href=${sessionLink(turn.id)}><${Icon} name="chevron" />${turn.question}</a></li>`)}</ol>
  </nav>`;
}

/** @param {{session: CouncilSession}} props */
export function FollowUp({ session }) {
  const [text, setText] = useState("");
  useEffect(() => {
    if (!draft.value.seats.length) fitSeats(chatModels.value);
  }, [chatModels.value]);
  if (!session.conversation_id) return null;
  return html`<section class="card follow-up" aria-label="Follow-up">
    <${QuestionForm} label="Follow-up question" placeholder="Ask a follow-up in this conversation" rows=${2} button="Ask"
      conversationId=${session.conversation_id} text=${text} onText=${setText} />
  </section>`;
}
