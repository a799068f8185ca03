// One paint per frame: however many events arrive, what they change is shown once.

const HIDDEN_TAB_MS = 500;

/**
 * @param {() => void} paint
 * @returns {{ask: () => void, stop: () => void}}
 */
export function oncePerFrame(paint) {
  let frame = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const run = () => {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
    frame = 0;
    timer = undefined;
    paint();
  };
  return {
    ask() {
      if (frame || timer !== undefined) return;
      frame = requestAnimationFrame(run);
      // A hidden tab gets no frames, and must not pile up a backlog either.
      timer = setTimeout(run, HIDDEN_TAB_MS);
    },
    stop() {
      cancelAnimationFrame(frame);
      clearTimeout(timer);
      frame = 0;
      timer = undefined;
    },
  };
}
