// Markdown of a model's answer to markup that is safe to show. An answer is foreign text: it may
// hold anything. Three walls: raw HTML is never parsed as such, the sanitizer passes a short list of
// elements, and the page's security policy forbids the rest.
import hljs from "@highlightjs/cdn-assets";
import DOMPurify from "dompurify";
import { Marked } from "marked";

/** Above this a code block is shown plain: colouring it would hold up the page. */
const HIGHLIGHT_LIMIT = 20_000;

const ENTITIES = /** @type {Record<string, string>} */ ({
  "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;",
});
/** @param {string} text */
const escaped = (text) => text.replace(/[&<>"']/g, (sign) => ENTITIES[sign]);

/** @param {string} address */
const isWebAddress = (address) => /^(https?:|mailto:)/i.test(address.trim());

/** @param {string} code @param {string} language */
function coloured(code, language) {
  if (code.length > HIGHLIGHT_LIMIT || !hljs.getLanguage(language)) return escaped(code);
  return hljs.highlight(code, { language, ignoreIllegals: true }).value;
}

const renderer = {
  /** @param {{text: string, lang?: string}} token */
  code({ text, lang }) {
    const language = (lang ?? "").trim().split(/\s+/)[0].toLowerCase().replace(/[^\w+#.-]/g, "");
    const shown = language && `<span class="code-language">${escaped(language)}</span>`;
    return `<div class="code">${shown}<pre tabindex="0"><code class="hljs">${coloured(text, language)}</code></pre></div>\n`;
  },
  /** An image would fetch from another host and tell it who reads. @param {{href: string, text: string}} token */
  image({ href, text }) {
    const label = escaped(text || "image");
    if (!isWebAddress(href)) return `<span class="no-image">[image: ${label}]</span>`;
    return `<a href="${escaped(href)}">[image: ${label}]</a>`;
  },
  /** @param {{checked: boolean}} token */
  checkbox({ checked }) {
    return checked ? "☑ " : "☐ ";
  },
  /** @param {{text: string}} token */
  html({ text }) {
    return escaped(text);
  },
};

const off = () => undefined;
// Without these two, raw HTML stays text: an unclosed <style> would otherwise swallow the rest.
const marked = new Marked({ gfm: true, renderer, tokenizer: { html: off, tag: off } });

const ALLOWED = {
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li",
    "ol", "p", "pre", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["align", "class", "href", "rel", "start", "tabindex", "target"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_TRUSTED_TYPE: true,
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  if (!node.hasAttribute("href")) return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

/**
 * Markdown blocks of a text that grows. Blocks that are finished keep their markup; while text
 * still comes in, only the last blocks are read again.
 */
export class GrowingMarkdown {
  constructor() {
    /** @type {{raw: string, markup: string}[]} */
    this.finished = [];
    this.length = 0;
    this.text = "";
  }

  /**
   * @param {string} text
   * @param {boolean} growing
   * @returns {string[]} sanitized markup, block by block
   */
  blocks(text, growing) {
    // The lexer folds line ends, and lengths are counted in what it read.
    if (text.includes("\r")) text = text.replace(/\r\n?/g, "\n");
    if (!growing) return this.#whole(text);
    if (!text.startsWith(this.text)) this.#forget();
    this.text = text;
    const tokens = marked.lexer(text.slice(this.length));
    // The last two can still change (a paragraph may turn out to be a table's head, a list may go on).
    const open = tokens.filter((token) => token.type !== "space").slice(-2);
    const shown = [];
    for (const token of tokens) {
      if (open.includes(token)) shown.push(markup(token, tokens.links));
      else if (!shown.length) this.#finish(token, tokens.links);
    }
    return [...this.finished.map((block) => block.markup), ...shown];
  }

  /** The text is complete: read it as a whole, and keep what was already right. @param {string} text */
  #whole(text) {
    const known = new Map(this.finished.map((block) => [block.raw, block.markup]));
    const tokens = marked.lexer(text);
    const blocks = tokens.filter((token) => token.type !== "space" && token.type !== "def");
    const links = Object.keys(tokens.links).length > 0;
    return blocks.map((token) => (links ? undefined : known.get(token.raw)) ?? markup(token, tokens.links));
  }

  /** @param {import("marked").Token} token @param {object} links */
  #finish(token, links) {
    this.length += token.raw.length;
    if (token.type !== "space") this.finished.push({ raw: token.raw, markup: markup(token, links) });
  }

  #forget() {
    this.finished = [];
    this.length = 0;
  }
}

/** @param {import("marked").Token} token @param {object} links */
function markup(token, links) {
  return DOMPurify.sanitize(marked.parser(Object.assign([token], { links })), ALLOWED);
}
