// An answer as Markdown, while it grows and when it is complete.
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { html } from "../html.js";
import { GrowingMarkdown } from "../markdown.js";

/** Text so near to its end counts as "at the end", and is kept there while more comes in. */
const NEAR_END_PX = 48;

/** @param {{text: string, growing?: boolean}} props */
export function AnswerText({ text, growing = false }) {
  const growth = useRef(/** @type {GrowingMarkdown | null} */ (null));
  growth.current ??= new GrowingMarkdown();
  const reader = growth.current;
  return useMemo(() => html`
    <div class=${`answer-text ${growing ? "growing" : ""}`}>
      ${reader.blocks(text, growing).map((markup, index) =>
        html`<div class="block" key=${index} dangerouslySetInnerHTML=${{ __html: markup }}></div>`)}
    </div>`, [text, growing]);
}

/** A box that scrolls by itself and follows text that grows, unless its reader scrolled away. @param {{label: string, growing: boolean, children?: any}} props */
export function FollowingBox({ label, growing, children }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const following = useRef(true);
  useLayoutEffect(() => {
    const element = box.current;
    if (element && growing && following.current) element.scrollTop = element.scrollHeight;
  });
  const onScroll = () => {
    const element = box.current;
    if (element) following.current = element.scrollHeight - element.scrollTop - element.clientHeight < NEAR_END_PX;
  };
  return html`<div class="text-box" ref=${box} onScroll=${onScroll} tabindex="0" role="region" aria-label=${label}>${children}</div>`;
}
