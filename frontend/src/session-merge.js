// How a session that was fetched meets a view that was built from events. The fetched rows are the
// truth of what has ended; the events are ahead of them in what still runs.

/** @typedef {import("./wire.js").CouncilSession} CouncilSession */
/** @typedef {import("./session-state.js").SessionView} SessionView */
/** @typedef {import("./session-state.js").Call} Call */

/** @param {CouncilSession | {state: string}} session */
export const isEnded = (session) => ["completed", "failed", "cancelled"].includes(session.state);

const STAGE_KEYS = /** @type {const} */ ([
  ["opinions", "stage1_opinions"], ["review", "stage2_review"], ["synthesis", "stage3_synthesis"],
]);

/**
 * @param {SessionView} view
 * @param {CouncilSession} fetched
 * @returns {SessionView}
 */
export function mergeSession(view, fetched) {
  const older = (fetched.run ?? 1) < (view.session.run ?? 1);
  if (older) return view;
  const live = view.seq > 0 && !isEnded(fetched);
  const session = live ? mergeLive(view.session, fetched) : { ...view.session, ...fetched };
  return withRows({ ...view, session }, fetched);
}

/**
 * While a session runs, only what the events do not carry is taken.
 * @param {CouncilSession} known @param {CouncilSession} fetched @returns {CouncilSession}
 */
function mergeLive(known, fetched) {
  const reviewers = new Set((fetched.ballots ?? []).map((ballot) => ballot.reviewer));
  const ahead = (known.ballots ?? []).filter((ballot) => !reviewers.has(ballot.reviewer));
  return {
    ...fetched, ...known,
    conversation_id: fetched.conversation_id ?? known.conversation_id,
    practice: fetched.practice ?? known.practice,
    cached: fetched.cached ?? known.cached,
    trimmed: fetched.trimmed ?? known.trimmed,
    chairman: fetched.chairman ?? known.chairman,
    agreement: fetched.agreement ?? known.agreement,
    contested: fetched.contested ?? known.contested,
    top_answer: fetched.top_answer ?? known.top_answer,
    agents: known.agents?.length ? known.agents : fetched.agents,
    ballots: [...(fetched.ballots ?? []), ...ahead],
    ranking: known.ranking?.length ? known.ranking : fetched.ranking,
    warnings: longer(known.warnings, fetched.warnings),
  };
}

/** @template T @param {T[] | undefined} a @param {T[] | undefined} b */
const longer = (a, b) => ((a?.length ?? 0) >= (b?.length ?? 0) ? a : b);

/**
 * Fill the calls from the rows: texts, nodes and figures of what is over.
 * @param {SessionView} view @param {CouncilSession} fetched @returns {SessionView}
 */
function withRows(view, fetched) {
  const over = isEnded(fetched);
  /** @type {SessionView["calls"]} */
  const calls = {
    opinions: { ...view.calls.opinions }, review: { ...view.calls.review },
    synthesis: { ...view.calls.synthesis },
  };
  for (const agent of fetched.agents ?? []) {
    const id = agent.agent_id;
    if (over || !calls.opinions[id]) {
      calls.opinions[id] = filled(calls.opinions[id], {
        state: agent.state, model: agent.model, node: agent.node ?? null, answer: agent.opinion ?? null,
        error: agent.error ?? null,
      });
    }
    if (agent.review_state && agent.review_state !== "waiting" && (over || !calls.review[id])) {
      const state = agent.review_state === "abstained" ? "done" : agent.review_state;
      calls.review[id] = filled(calls.review[id], { state, model: agent.model });
    }
  }
  if (fetched.synthesis && (over || !calls.synthesis.chairman)) {
    calls.synthesis.chairman = filled(calls.synthesis.chairman, {
      state: "done", model: fetched.synthesis.model, node: fetched.synthesis.node ?? null,
      answer: fetched.synthesis.text,
    });
  }
  return withFigures({ ...view, calls }, fetched);
}

/** @param {Call | undefined} call @param {Partial<Omit<Call, "answer">> & {answer?: string | null}} fields @returns {Call} */
function filled(call, fields) {
  const { answer, ...rest } = fields;
  return {
    position: null, estimate_s: null, answer: "", thinking: "", deltas: 0, queued_at: null, started_at: null,
    first_token_at: null, last_token_at: null, restarts: [], token_usage: null, latency: null,
    error: null, node: null, model: null, ...call, state: "done", ...rest,
    ...(answer == null ? {} : { answer }),
  };
}

/** @param {SessionView} view @param {CouncilSession} fetched @returns {SessionView} */
function withFigures(view, fetched) {
  const calls = { ...view.calls };
  const stages = { ...view.stages };
  for (const [index, [stage, key]] of STAGE_KEYS.entries()) {
    const latency = fetched.latency_stats?.[key];
    if (!latency || (latency.duration_ms == null && !latency.by_agent)) continue;
    for (const [agentId, figures] of Object.entries(latency.by_agent ?? {})) {
      const call = calls[stage][agentId] ?? filled(undefined, { state: "done" });
      const known = call.latency ? call : {
        ...call, latency: figures, node: call.node ?? figures.node ?? null,
        token_usage: call.token_usage ?? figures.token_usage ?? null,
      };
      calls[stage] = { ...calls[stage], [agentId]: known };
    }
    // A stage that was cut short has figures too; it is done when all is, or when the next one began.
    const next = STAGE_KEYS[index + 1];
    const done = fetched.state === "completed" || (next && fetched.latency_stats?.[next[1]]) || stages[stage].state === "done";
    if (isEnded(fetched) || stages[stage].state !== "running") {
      stages[stage] = { ...stages[stage], state: done ? "done" : "running", duration_ms: latency.duration_ms ?? null };
    }
  }
  return { ...view, calls, stages };
}
