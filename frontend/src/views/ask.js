// The front page: a question, and who sits in the council.
import { useEffect } from "preact/hooks";
import { chatModels, clusterLoaded, clusterProblem } from "../cluster-store.js";
import { html } from "../html.js";
import { fitSeats, question } from "../seats.js";
import { ProblemBanner } from "./parts.js";
import { QuestionForm } from "./question-form.js";
import { Seats } from "./seats.js";

export function AskView() {
  useEffect(() => { document.title = "LAN Council"; }, []);
  useEffect(() => fitSeats(chatModels.value), [chatModels.value]);
  return html`
    <div class="ask">
      <header class="ask-head">
        <h1>Ask the council</h1>
        <p>Several models answer on your own machines, review each other without names, and a chairman writes the result.</p>
      </header>
      ${clusterProblem.value && html`<${ProblemBanner} problem=${clusterProblem.value} />`}
      <section class="card ask-card" aria-label="Question">
        <${QuestionForm} label="Your question" placeholder="What would you like to know?" autofocus
          text=${question.value} onText=${(/** @type {string} */ text) => { question.value = text; }} />
      </section>
      ${clusterLoaded.value && html`<${Seats} />`}
    </div>`;
}
