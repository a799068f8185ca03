// What is known of a session, and how each event changes it. Pure: no clock, no socket, no
// document. Times are taken from the events themselves.
import { isEnded, mergeSession } from "./session-merge.js";

/** @typedef {import("./wire.js").CouncilSession} CouncilSession */
/** @typedef {import("./wire.js").CouncilEvent} CouncilEvent */
/** @typedef {import("./wire.js").Stage} Stage */

/**
 * One model call as it is watched. `deltas` counts what came in, for a speed while it runs.
 * @typedef {object} Call
 * @property {import("./wire.js").CallState} state
 * @property {number | null} position
 * @property {number | null} estimate_s seconds until it was expected to start, when the position was told
 * @property {string | null} node
 * @property {string | null} model
 * @property {string} answer
 * @property {string} thinking
 * @property {number} deltas
 * @property {number | null} queued_at
 * @property {number | null} started_at
 * @property {number | null} first_token_at
 * @property {number | null} last_token_at
 * @property {{from_node: string, to_node: string, reason: string}[]} restarts
 * @property {import("./wire.js").TokenUsage | null} token_usage
 * @property {import("./wire.js").CallLatency | null} latency
 * @property {import("./wire.js").Problem | string | null} error
 */

/** @typedef {{state: "waiting" | "running" | "done", started_at: number | null, duration_ms: number | null}} StageView */

/**
 * @typedef {object} SessionView
 * @property {CouncilSession} session
 * @property {number} seq the last event contained
 * @property {boolean} gap an event was skipped: the socket must ask again after `seq`
 * @property {Record<Stage, Record<string, Call>>} calls
 * @property {Record<Stage, StageView>} stages
 * @property {number | null} started_at
 */

/** @type {Stage[]} */
export const STAGES = ["opinions", "review", "synthesis"];

/** @returns {Call} */
const newCall = () => ({
  state: "waiting", position: null, estimate_s: null, node: null, model: null, answer: "", thinking: "",
  deltas: 0, queued_at: null, started_at: null, first_token_at: null, last_token_at: null, restarts: [],
  token_usage: null, latency: null, error: null,
});

/** @returns {StageView} */
const newStage = () => ({ state: "waiting", started_at: null, duration_ms: null });

/**
 * The view of a session before any event.
 * @param {CouncilSession} session
 * @returns {SessionView}
 */
export function newView(session) {
  return mergeSession({
    session: { ...session },
    seq: 0,
    gap: false,
    calls: { opinions: {}, review: {}, synthesis: {} },
    stages: { opinions: newStage(), review: newStage(), synthesis: newStage() },
    started_at: Date.parse(session.created_at ?? "") || null,
  }, session);
}

/**
 * The same session as it was before its first event: what a replay from the start begins with.
 * @param {CouncilSession} session
 * @returns {SessionView}
 */
export function blankView(session) {
  return newView({
    ...session, state: "queued", result: null, error: null, ballots: [], ranking: [], synthesis: null,
    top_answer: null, agreement: null, contested: false, missing_agents: [], warnings: [], trimmed: [],
    token_usage: null, latency_stats: null, completed_at: null,
    agents: (session.agents ?? []).map((agent) => ({
      ...agent, state: "waiting", review_state: "waiting", opinion: null, error: null, node: null,
    })),
  });
}

/**
 * @param {SessionView} view
 * @param {CouncilEvent} event
 * @returns {SessionView} a new view, or the same one when the event was already contained
 */
export function applyEvent(view, event) {
  if (event.type === "snapshot") return applySnapshot(view, event);
  if (event.seq <= view.seq) return view;
  // A fresh socket starts right after `view.seq`; anything else means that events were lost.
  if (event.seq !== view.seq + 1) return { ...view, gap: true };
  const next = { ...view, seq: event.seq, gap: false };
  const change = CHANGES[event.type];
  return change ? change(next, event) : next;
}

/** @param {SessionView} view @param {CouncilEvent} event @returns {SessionView} */
function applySnapshot(view, event) {
  const session = event.session ?? view.session;
  let next = newView(session);
  for (const stage of STAGES) {
    for (const [agentId, part] of Object.entries(event.partial?.[stage] ?? {})) {
      const text = typeof part === "string" ? { answer: part } : part;
      next = withCall(next, stage, agentId, (call) => ({
        ...call,
        state: call.state === "waiting" ? "running" : call.state,
        answer: text.answer ?? call.answer,
        thinking: text.thinking ?? "",
      }));
    }
  }
  return { ...next, seq: event.seq, started_at: view.started_at ?? next.started_at };
}

/** @param {CouncilEvent} event */
const timeOf = (event) => Date.parse(event.at ?? "") || null;

/**
 * @param {SessionView} view @param {Stage} stage @param {string} agentId
 * @param {(call: Call) => Call} change
 * @returns {SessionView}
 */
function withCall(view, stage, agentId, change) {
  const calls = view.calls[stage] ?? {};
  const call = change(calls[agentId] ?? newCall());
  return { ...view, calls: { ...view.calls, [stage]: { ...calls, [agentId]: call } } };
}

/** @param {SessionView} view @param {Partial<CouncilSession>} fields @returns {SessionView} */
const withSession = (view, fields) => ({ ...view, session: { ...view.session, ...fields } });

/** @param {SessionView} view @param {string} agentId @param {Partial<import("./wire.js").Agent>} fields */
function withAgent(view, agentId, fields) {
  const agents = (view.session.agents ?? []).map((agent) =>
    agent.agent_id === agentId ? { ...agent, ...fields } : agent);
  return withSession(view, { agents });
}

/** @param {SessionView} view @param {CouncilEvent} event @param {(call: Call) => Call} change */
function callChange(view, event, change) {
  if (!event.stage || !event.agent_id) return view;
  const next = withCall(view, event.stage, event.agent_id, change);
  const call = next.calls[event.stage][event.agent_id];
  if (event.stage === "opinions") {
    return withAgent(next, event.agent_id, { state: call.state, node: call.node, error: call.error });
  }
  if (event.stage === "review" && call.state !== "done") {
    return withAgent(next, event.agent_id, { review_state: call.state });
  }
  return next;
}

/** An attempt that is over does not lend its text to the next one. @param {Call} call */
const fresh = (call) => (call.state === "done" || call.state === "failed" ? newCall() : call);

/** @param {SessionView} view @param {import("./wire.js").Ballot} ballot */
function withBallot(view, ballot) {
  const others = (view.session.ballots ?? []).filter((known) => known.reviewer !== ballot.reviewer);
  return withSession(view, { ballots: [...others, ballot] });
}

/** @param {SessionView} view @param {CouncilEvent} event @param {import("./wire.js").SessionState} state */
function ended(view, event, state) {
  const duration = view.started_at && timeOf(event) ? Number(timeOf(event)) - view.started_at : null;
  const latency = view.session.latency_stats;
  return withSession(view, {
    state, completed_at: event.at ?? null,
    latency_stats: {
      stage1_opinions: null, stage2_review: null, stage3_synthesis: null, ...latency,
      total_duration_ms: latency?.total_duration_ms || duration || 0,
    },
  });
}

const USAGE_KEYS = /** @type {const} */ ({
  opinions: "stage1_opinions", review: "stage2_review", synthesis: "stage3_synthesis",
});

/** @type {Record<string, (view: SessionView, event: CouncilEvent) => SessionView>} */
const CHANGES = {
  "session.started": (view, event) => ({
    ...view,
    session: { ...view.session, ...(event.session ?? {}) },
    started_at: timeOf(event) ?? view.started_at,
  }),
  "stage.started": (view, event) => {
    const stage = /** @type {Stage} */ (event.stage);
    const next = withSession(view, { state: stage });
    /** @type {StageView} */
    const running = { state: "running", started_at: timeOf(event), duration_ms: null };
    return { ...next, stages: { ...next.stages, [stage]: running } };
  },
  "call.queued": (view, event) => callChange(view, event, (call) => ({
    ...fresh(call), state: "queued", position: event.position ?? null, estimate_s: event.estimate_s ?? null,
    queued_at: fresh(call).queued_at ?? timeOf(event),
  })),
  "call.started": (view, event) => callChange(view, event, (call) => ({
    ...fresh(call), state: "running", position: null, estimate_s: null, node: event.node ?? null,
    model: event.model ?? null, started_at: timeOf(event),
  })),
  "call.delta": (view, event) => callChange(view, event, (call) => {
    const channel = event.channel === "thinking" ? "thinking" : "answer";
    return {
      ...call, state: "running", [channel]: call[channel] + (event.text ?? ""),
      deltas: call.deltas + 1, first_token_at: call.first_token_at ?? timeOf(event),
      last_token_at: timeOf(event),
    };
  }),
  "call.restarted": (view, event) => callChange(view, event, (call) => ({
    ...newCall(), state: "running", model: call.model, node: event.to_node ?? null,
    queued_at: call.queued_at, started_at: timeOf(event),
    restarts: [...call.restarts, {
      from_node: event.from_node ?? "", to_node: event.to_node ?? "", reason: event.reason ?? "",
    }],
  })),
  "call.completed": (view, event) => {
    const next = callChange(view, event, (call) => ({
      ...call, state: "done", error: null,
      token_usage: /** @type {import("./wire.js").TokenUsage} */ (event.token_usage) ?? null,
      latency: /** @type {import("./wire.js").CallLatency} */ (event.latency) ?? null,
    }));
    if (event.stage !== "opinions" || !event.agent_id) return next;
    return withAgent(next, event.agent_id, { opinion: next.calls.opinions[event.agent_id].answer });
  },
  "call.failed": (view, event) => callChange(view, event, (call) => ({
    ...call, state: "failed", position: null, error: event.error ?? "failed",
  })),
  "ballot.accepted": (view, event) => {
    const reviewer = event.reviewer ?? "";
    const next = withAgent(view, reviewer, { review_state: "done" });
    if (!event.rankings) return next;
    return withBallot(next, { reviewer, rankings: event.rankings, abstained: false, reason: null });
  },
  "ballot.abstained": (view, event) => {
    const reviewer = event.reviewer ?? "";
    const next = withAgent(view, reviewer, { review_state: "abstained" });
    return withBallot(next, { reviewer, rankings: [], abstained: true, reason: event.reason ?? null });
  },
  "stage.completed": (view, event) => {
    const stage = /** @type {Stage} */ (event.stage);
    const usage = /** @type {import("./wire.js").StageTokenUsage} */ (event.token_usage) ?? null;
    const latency = /** @type {import("./wire.js").StageLatency} */ (event.latency) ?? null;
    const key = USAGE_KEYS[stage];
    const nothing = { stage1_opinions: null, stage2_review: null, stage3_synthesis: null };
    const next = withSession(view, {
      token_usage: { ...nothing, ...view.session.token_usage, [key]: usage },
      latency_stats: { ...nothing, ...view.session.latency_stats, [key]: latency },
    });
    /** @type {StageView} */
    const done = {
      state: "done", started_at: view.stages[stage]?.started_at ?? null,
      duration_ms: latency?.duration_ms ?? null,
    };
    return { ...next, stages: { ...next.stages, [stage]: done } };
  },
  "ranking.updated": (view, event) => withSession(view, { ranking: event.ranking ?? [] }),
  "session.reopened": reopened,
  "session.completed": (view, event) => ended(withSession(view, { result: event.result ?? null }), event, "completed"),
  "session.failed": (view, event) => ended(withSession(view, { error: event.error ?? null }), event, "failed"),
  "session.cancelled": (view, event) => ended(view, event, "cancelled"),
  "warning": (view, event) => withSession(view, {
    warnings: [...(view.session.warnings ?? []), event.text ?? ""],
  }),
};

/**
 * A retry opens the next run. What it will do again is told by the events that follow; until then
 * only what certainly falls is taken away: the synthesis, and the failed call itself.
 * @param {SessionView} view @param {CouncilEvent} event @returns {SessionView}
 */
function reopened(view, event) {
  const agentId = event.agent_id ?? "";
  let next = withSession(view, {
    run: event.run ?? (view.session.run ?? 1) + 1, state: "queued", result: null, error: null,
    synthesis: null, completed_at: null, warnings: [],
  });
  if (next.calls.opinions[agentId]?.state === "failed") {
    next = withCall(next, "opinions", agentId, newCall);
    next = withAgent(next, agentId, { state: "waiting", error: null });
  }
  return {
    ...next,
    calls: { ...next.calls, synthesis: {} },
    stages: { ...next.stages, synthesis: newStage() },
    started_at: timeOf(event) ?? next.started_at,
  };
}

export { isEnded, mergeSession };
