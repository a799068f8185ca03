// One session: what was asked, how far the council is, and everything it said.
import { useEffect, useMemo, useState } from "preact/hooks";
import { asProblem } from "../api.js";
import { deleteSession, refreshHistory } from "../history.js";
import { html } from "../html.js";
import { announce, toast } from "../notices.js";
import { go } from "../router.js";
import { isEnded } from "../session-state.js";
import { justAsked, SessionStore } from "../session-store.js";
import { Figures } from "./figures.js";
import { FollowUp, EarlierTurns } from "./conversation.js";
import { Opinions } from "./opinions.js";
import { Banner, ProblemBanner } from "./parts.js";
import { Notes, Result } from "./result.js";
import { Review } from "./review.js";
import { SessionHead } from "./session-head.js";

const SPOKEN = /** @type {Record<string, string>} */ ({
  queued: "The question waits for its turn.",
  opinions: "The seats are answering.",
  review: "The seats review each other.",
  synthesis: "The chairman writes the final answer.",
  completed: "The council has finished.",
  failed: "The council failed.",
  cancelled: "The council was stopped.",
});

/** @param {{id: string}} props */
export function OpenSession({ id }) {
  const store = useMemo(() => new SessionStore(id, refreshHistory), [id]);
  useEffect(() => {
    store.open(justAsked.get(id));
    justAsked.delete(id);
    return () => store.close();
  }, [store]);
  const view = store.view.value;
  const state = view?.session.state;
  useEffect(() => {
    if (state) announce(SPOKEN[state] ?? state);
  }, [state]);
  useEffect(() => {
    if (view) document.title = `${view.session.question.slice(0, 60)} · LAN Council`;
  }, [view?.session.question]);
  if (store.problem.value) {
    return html`<div class="session"><${ProblemBanner} problem=${store.problem.value}
      action=${html` <a href="#/">Ask a new question</a>`} /></div>`;
  }
  if (!view) return html`<p class="loading" role="status">Opening the session…</p>`;
  return html`<${SessionPage} store=${store} view=${view} />`;
}

/** @param {{store: SessionStore, view: import("../session-state.js").SessionView}} props */
function SessionPage({ store, view }) {
  const { session } = view;
  const [asked, setAsked] = useState("");
  const ended = isEnded(session);
  /** @param {string} name @param {() => Promise<void>} run */
  const doing = async (name, run) => {
    setAsked(name);
    try {
      await run();
    } catch (error) {
      const problem = asProblem(error);
      toast(problem.detail ?? problem.title ?? "It did not work", { kind: "error" });
    }
    setAsked("");
  };
  const retry = ended && !asked ? (/** @type {string} */ agentId) => doing("retry", () => store.retry(agentId)) : null;
  const remove = () => {
    deleteSession(session.id);
    go("#/");
  };
  return html`
    <article class="session" aria-labelledby="session-question">
      <${EarlierTurns} session=${session} />
      <${SessionHead} view=${view} stopping=${asked === "stop"} onStop=${() => doing("stop", () => store.cancel())} onDelete=${remove} />
      <${Notes} session=${session} />
      ${store.connection.value === "waiting" && !ended && html`
        <${Banner} kind="warning" role="status" title="Connection lost."> The page reconnects by itself; nothing that was said is lost.<//>`}
      <${Result} view=${view} retry=${retry} />
      <${Opinions} view=${view} retry=${retry} />
      <${Review} view=${view} />
      <${Figures} view=${view} />
      ${ended && html`<${FollowUp} session=${session} />`}
    </article>`;
}

