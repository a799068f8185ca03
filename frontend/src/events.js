// The socket of one session: reconnects, resumes after the last event seen, and ends when the
// master says that there is nothing more. It knows nothing of what the events mean.
import { sessionPath } from "./api.js";

const FIRST_DELAY_MS = 250;
const LONGEST_DELAY_MS = 10_000;
/** A page cannot see pings: after this long without an event it asks anew, in case the socket is dead. */
const SILENT_MS = 20_000;
const NOTHING_MORE = 1000;
const TOO_SLOW = 1013;
/** Refused: no such session, or no permission. Asking again would not change that. */
const REFUSED = 1008;

/** @typedef {"connecting" | "live" | "waiting" | "closed"} SocketState */

export class EventSocket {
  /**
   * @param {string} sessionId
   * @param {object} listener
   * @param {() => number} listener.after the last event that is already known
   * @param {(event: import("./wire.js").CouncilEvent) => void} listener.onEvent
   * @param {(state: SocketState) => void} listener.onState
   * @param {() => void} listener.onEnd the master closed with 1000: no event will follow
   * @param {() => void} [listener.onLost] connecting failed repeatedly
   */
  constructor(sessionId, listener) {
    this.sessionId = sessionId;
    this.listener = listener;
    this.failures = 0;
    this.stopped = false;
    /** @type {WebSocket | null} */
    this.socket = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.silence = undefined;
    this.wake = () => this.#wake();
    window.addEventListener("online", this.wake);
    document.addEventListener("visibilitychange", this.wake);
    this.#connect();
  }

  #connect() {
    this.listener.onState("connecting");
    const url = new URL(`${sessionPath(this.sessionId)}/events`, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("after", String(this.listener.after()));
    const socket = new WebSocket(url);
    this.socket = socket;
    this.#heard();
    socket.onmessage = (message) => {
      if (socket !== this.socket) return;
      this.#heard();
      const event = JSON.parse(message.data);
      // A problem instead of events has no number; the close code that follows says what to do.
      if (typeof event.seq !== "number") return;
      this.failures = 0;
      this.listener.onEvent(event);
    };
    socket.onopen = () => socket === this.socket && this.listener.onState("live");
    socket.onclose = (closed) => {
      if (socket !== this.socket || this.stopped) return;
      this.socket = null;
      if (closed.code === NOTHING_MORE || closed.code === REFUSED) {
        this.listener.onState("closed");
        this.stop();
        this.listener.onEnd();
        return;
      }
      this.#later(closed.code === TOO_SLOW ? 0 : undefined);
    };
  }

  /** Exponential back-off with full jitter: a restarted master is not met by all pages at once. */
  #later(delay = Math.random() * Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.failures)) {
    this.failures += 1;
    this.listener.onState("waiting");
    if (this.failures % 4 === 0) this.listener.onLost?.();
    this.timer = setTimeout(() => !this.stopped && this.#connect(), Math.max(delay, 50));
  }

  #heard() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.#silent(), SILENT_MS);
  }

  /** Nothing came for long: what was open is asked for anew at once, what never opened a little later. */
  #silent() {
    const socket = this.socket;
    if (this.stopped || !socket) return;
    const opened = socket.readyState === WebSocket.OPEN;
    this.socket = null;
    socket.close();
    if (opened) this.#connect();
    else this.#later();
  }

  /** The machine or the tab is back: do not sit out the rest of a long wait. */
  #wake() {
    if (this.stopped || this.socket || document.hidden) return;
    clearTimeout(this.timer);
    this.#connect();
  }

  /** Drop this connection and resume after the last event known. */
  resume() {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    if (!this.stopped) this.#later();
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
    clearTimeout(this.silence);
    window.removeEventListener("online", this.wake);
    document.removeEventListener("visibilitychange", this.wake);
    this.socket?.close();
    this.socket = null;
  }
}
