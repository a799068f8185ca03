// CPU and memory of machines and their engines, side by side, drawn by uPlot, which is fetched with the first chart.
import { useEffect, useRef } from "preact/hooks";
import { showHours, usage, usageHours } from "../background-store.js";
import { bytes } from "../format.js";
import { html } from "../html.js";
import { dark } from "../theme.js";

/** @typedef {import("../wire.js").UsagePart} UsagePart */

const HOURS = [1, 6, 24];
const HEIGHT = 170;
/** In this order, so that a part has one colour on every machine. */
const PARTS = [
  { part: "main", name: "Main engine", colour: "--accent", width: 2 },
  { part: "background", name: "Background engine", colour: "--chart-second", width: 2 },
  { part: "node", name: "Node", colour: "--chart-third", width: 1.5 },
  { part: "master", name: "Master", colour: "--chart-third", width: 1.5 },
  { part: "machine", name: "Whole machine", colour: "--text-faint", width: 1, dash: [4, 4] },
];

/** @param {(number | null)[]} values */
const last = (values) => values.findLast((value) => value != null) ?? null;

/** @param {number} at in seconds */
const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

/** One column of all parts over one axis of time. @param {Record<string, UsagePart>} parts @param {"cpu_percent" | "memory_bytes"} column */
export function aligned(parts, column) {
  const times = [...new Set(Object.values(parts).flatMap((part) => part.at))].sort((a, b) => a - b);
  const shown = PARTS.filter(({ part }) => parts[part]);
  const rows = shown.map(({ part }) => {
    const found = new Map(parts[part].at.map((at, index) => [at, parts[part][column][index]]));
    return times.map((at) => found.get(at) ?? null);
  });
  return { shown, data: [times, ...rows] };
}

/** @param {{parts: Record<string, UsagePart>, column: "cpu_percent" | "memory_bytes", title: string}} props */
function Chart({ parts, column, title }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const { shown, data } = aligned(parts, column);
  const cpu = column === "cpu_percent";
  const key = shown.map(({ part }) => part).join(" ");
  const current = useRef(data);
  current.current = data;
  const plot = useRef(/** @type {any} */ (null));
  useEffect(() => {
    let gone = false;
    /** @type {ResizeObserver | undefined} */
    let watching;
    import("uplot").then(({ default: UPlot }) => {
      const element = box.current;
      if (gone || !element) return;
      const style = getComputedStyle(document.documentElement);
      const colour = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
      const written = (/** @type {number | null} */ value) => (value == null ? "–" : cpu ? `${value.toFixed(1)} %` : bytes(value) || "0 MB");
      const axis = { stroke: colour("--text-faint"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
      plot.current = new UPlot({
        width: element.clientWidth, height: HEIGHT, padding: [8, 36, 0, 0], cursor: { y: false },
        scales: { x: { range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number | null} */ newest) => {
          const end = newest ?? Date.now() / 1000;
          return [end - usageHours.value * 3600, end];
        } }, y: { range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number} */ most) => [0, cpu ? Math.min(100, Math.max(10, most * 1.15)) : Math.max(1e8, (most || 0) * 1.15)] } },
        series: [{ value: (/** @type {any} */ _, /** @type {number} */ at) => (at == null ? "–" : clock(at)) },
          ...shown.map((part) => ({ label: part.name, stroke: colour(part.colour), width: part.width, dash: part.dash, spanGaps: false,
            points: { show: data[0].length < 3 }, value: (/** @type {any} */ _, /** @type {number | null} */ value) => written(value) }))],
        axes: [{ ...axis, space: 70, values: (/** @type {any} */ _, /** @type {number[]} */ marks) => marks.map(clock) }, { ...axis, size: 62, values: (/** @type {any} */ _, /** @type {number[]} */ marks) => marks.map((mark) => (cpu ? `${mark} %` : mark ? bytes(mark) : "0")) }],
      }, current.current, element);
      watching = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT }));
      watching.observe(element);
    });
    return () => {
      gone = true;
      watching?.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [key, dark.value]);
  useEffect(() => { plot.current?.setData(data); }, [data]);
  return html`<figure class="chart"><figcaption>${title}</figcaption><div ref=${box}></div></figure>`;
}

/** @param {{node: string, parts: Record<string, UsagePart>}} props */
function Machine({ node, parts }) {
  const rows = PARTS.filter(({ part }) => parts[part]);
  return html`<article class="card usage" aria-label=${`Use of ${node}`}>
    <h3>${node}</h3>
    <div class="table-box"><table class="figures">
      <thead><tr><th scope="col" class="text">Part</th><th scope="col">CPU now</th><th scope="col">Highest</th><th scope="col">Memory</th></tr></thead>
      <tbody>${rows.map(({ part, name, colour }) => {
        const cpu = last(parts[part].cpu_percent);
        const seen = parts[part].cpu_max.filter((value) => value != null);
        return html`<tr key=${part}><th scope="row" class="text"><i class=${`swatch ${colour.slice(2)}`}></i>${name}</th>
          <td>${cpu == null ? "–" : `${cpu.toFixed(1)} %`}</td><td>${seen.length ? `${Math.max(...seen).toFixed(1)} %` : "–"}</td><td>${bytes(last(parts[part].memory_bytes)) || "–"}</td></tr>`;
      })}</tbody>
    </table></div>
    <div class="charts">
      <${Chart} parts=${parts} column="cpu_percent" title="CPU, percent of the machine" />
      <${Chart} parts=${parts} column="memory_bytes" title="Memory" />
    </div>
  </article>`;
}

export function UsageCharts() {
  const nodes = usage.value?.nodes ?? [];
  return html`<section class="usage-list" aria-labelledby="usage-title">
    <div class="card-head"><h2 id="usage-title">What it takes</h2>
      <div class="segmented" role="group" aria-label="Time shown">${HOURS.map((hours) => html`
        <button type="button" key=${hours} aria-pressed=${usageHours.value === hours} onClick=${() => showHours(hours)}>${hours} h</button>`)}</div></div>
    ${nodes.length ? nodes.map((one) => html`<${Machine} key=${one.node} node=${one.node} parts=${one.parts} />`)
      : html`<p class="card empty">No figures yet. They come with the first minute.</p>`}
  </section>`;
}
