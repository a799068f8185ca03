// The parts of the vendored libraries that the page uses, typed by hand: their own declarations
// would need an install, and the page has none.

declare module "preact" {
  export type Child = VNode | string | number | boolean | null | undefined | Child[];
  export interface VNode { type: unknown; props: unknown; key: unknown }
  export function h(type: unknown, props: object | null, ...children: Child[]): VNode;
  export function render(node: Child, parent: Element): void;
  export const Fragment: unknown;
}

declare module "preact/hooks" {
  export function useState<T>(initial: T | (() => T)): [T, (next: T | ((previous: T) => T)) => void];
  export function useEffect(effect: () => void | (() => void), inputs?: readonly unknown[]): void;
  export function useLayoutEffect(effect: () => void | (() => void), inputs?: readonly unknown[]): void;
  export function useMemo<T>(make: () => T, inputs: readonly unknown[]): T;
  export function useRef<T>(initial: T): { current: T };
  export function useId(): string;
}

declare module "@preact/signals" {
  export interface Signal<T> { value: T; peek(): T }
  export interface ReadonlySignal<T> { readonly value: T; peek(): T }
  export function signal<T>(value: T): Signal<T>;
  export function computed<T>(compute: () => T): ReadonlySignal<T>;
  export function effect(run: () => void | (() => void)): () => void;
  export function batch<T>(run: () => T): T;
}

declare module "htm" {
  import type { VNode } from "preact";
  const htm: {
    bind(h: unknown): (strings: TemplateStringsArray, ...values: unknown[]) => VNode;
  };
  export default htm;
}

declare module "marked" {
  export interface Token { type: string; raw: string; [field: string]: any }
  export type Tokens = Token[] & { links: object };
  export class Marked {
    constructor(...extensions: object[]);
    lexer(text: string): Tokens;
    parser(tokens: Tokens): string;
  }
}

declare module "dompurify" {
  const DOMPurify: {
    sanitize(markup: string, options: object): string;
    addHook(name: string, hook: (node: Element) => void): void;
  };
  export default DOMPurify;
}

declare module "@highlightjs/cdn-assets" {
  const hljs: {
    getLanguage(name: string): object | undefined;
    highlight(code: string, options: { language: string; ignoreIllegals: boolean }): { value: string };
  };
  export default hljs;
}

declare module "uplot" {
  export default class UPlot {
    constructor(options: object, data: unknown[], element: HTMLElement);
    setData(data: unknown[]): void;
    setSize(size: { width: number; height: number }): void;
    destroy(): void;
  }
}
