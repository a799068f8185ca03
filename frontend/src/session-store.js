// The session that is open: fetched once, then kept current by its socket, painted once a frame.
import { signal } from "@preact/signals";
import { api, asProblem } from "./api.js";
import { EventSocket } from "./events.js";
import { oncePerFrame } from "./frames.js";
import { applyEvent, blankView, isEnded, mergeSession, newView } from "./session-state.js";

/** @typedef {import("./session-state.js").SessionView} SessionView */
/** @typedef {import("./wire.js").CouncilEvent} CouncilEvent */
/** @typedef {import("./wire.js").CouncilSession} CouncilSession */

/** Answers to questions just asked: they need not be fetched. @type {Map<string, CouncilSession>} */
export const justAsked = new Map();

/** What these events change is told only by the session itself, so it is fetched again. */
const FETCH_AFTER = new Set([
  "stage.completed", "ballot.accepted", "session.completed", "session.failed", "session.cancelled",
]);
const FETCH_DELAY_MS = 120;
const RECONNECT_DELAY_MS = 1000;

/** The clock of the master, as far as events tell it: server time = Date.now() - clockOffset. */
export const clockOffset = signal(0);

export class SessionStore {
  /** @param {string} id @param {() => void} onChange called when the session began or ended */
  constructor(id, onChange) {
    this.id = id;
    this.onChange = onChange;
    /** @type {import("@preact/signals").Signal<SessionView | null>} */
    this.view = signal(/** @type {SessionView | null} */ (null));
    this.problem = signal(/** @type {import("./wire.js").Problem | null} */ (null));
    this.connection = signal(/** @type {import("./events.js").SocketState} */ ("connecting"));
    /** @type {CouncilEvent[]} */
    this.waiting = [];
    /** A replay from the first event, not shown before it has caught up with what is on screen.
     * @type {SessionView | null} */
    this.replay = null;
    this.offset = Infinity;
    this.frames = oncePerFrame(() => this.#paint());
    /** @type {EventSocket | null} */
    this.socket = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.fetching = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.reconnecting = undefined;
    this.closed = false;
  }

  /** @param {CouncilSession} [known] the answer to a question just asked */
  async open(known) {
    try {
      const session = known ?? await api.session(this.id);
      if (this.closed) return;
      this.view.value = newView(session);
      this.replay = blankView(session);
      this.#connect();
    } catch (error) {
      this.problem.value = asProblem(error);
    }
  }

  #connect() {
    if (this.closed) return;
    this.socket?.stop();
    this.socket = new EventSocket(this.id, {
      after: () => this.#last(),
      onEvent: (event) => this.#receive(event),
      onState: (state) => { this.connection.value = state; },
      onEnd: () => this.#caughtUp(),
      onLost: () => this.#fetch(),
    });
  }

  #last() {
    const queued = this.waiting.at(-1)?.seq;
    return queued ?? (this.replay ?? this.view.peek())?.seq ?? 0;
  }

  /** @param {CouncilEvent} event */
  #receive(event) {
    const at = Date.parse(event.at ?? "");
    if (at) {
      this.offset = Math.min(this.offset, Date.now() - at);
      clockOffset.value = this.offset;
    }
    this.waiting.push(event);
    this.frames.ask();
  }

  #paint() {
    if (this.closed) return;
    const events = this.waiting;
    this.waiting = [];
    let view = this.replay ?? this.view.peek();
    if (!view) return;
    let refetch = false;
    for (const event of events) {
      view = applyEvent(view, event);
      if (view.gap) break;
      refetch ||= FETCH_AFTER.has(event.type);
    }
    const shown = this.view.peek();
    const behind = this.replay && shown && isEnded(shown.session) && !isEnded(view.session);
    if (behind) this.replay = { ...view, gap: false };
    else this.#show({ ...view, gap: false });
    if (view.gap) this.socket?.resume();
    else if (refetch) this.#fetchSoon();
  }

  /** @param {SessionView} view */
  #show(view) {
    const before = this.view.peek()?.session;
    // Rows fetched earlier (ballots, texts, figures) are kept where the replay cannot know them.
    this.view.value = this.replay && before ? mergeSession(view, before) : view;
    this.replay = null;
    if (before?.state !== view.session.state) this.onChange();
  }

  #caughtUp() {
    this.#paint();
    if (this.replay) this.replay = null;
    this.#fetch();
  }

  #fetchSoon() {
    this.fetching ??= setTimeout(() => {
      this.fetching = undefined;
      this.#fetch();
    }, FETCH_DELAY_MS);
  }

  async #fetch() {
    try {
      const session = await api.session(this.id);
      const view = this.view.peek();
      if (this.closed || !view) return;
      this.view.value = mergeSession(view, session);
      if (view.session.state !== session.state) this.onChange();
      // Closed, yet still running: the socket ended early. Ask again instead of standing still.
      if (!isEnded(session) && this.socket?.stopped) this.#reconnectSoon();
    } catch (error) {
      const problem = asProblem(error);
      if (problem.status !== 404) return;
      this.socket?.stop();
      this.problem.value = problem;
    }
  }

  #reconnectSoon() {
    clearTimeout(this.reconnecting);
    this.reconnecting = setTimeout(() => this.#connect(), RECONNECT_DELAY_MS);
  }

  async cancel() {
    await api.cancel(this.id);
  }

  /** @param {string} agentId */
  async retry(agentId) {
    await api.retry(this.id, agentId);
    this.#connect();
  }

  close() {
    this.closed = true;
    this.socket?.stop();
    this.frames.stop();
    clearTimeout(this.fetching);
    clearTimeout(this.reconnecting);
  }
}
