// The engine at work: /live, once a second while the page is looked at.

import { headers } from "/page/chat.js";

const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function made(name, attributes, text) {
  const one = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  if (text !== undefined) one.textContent = text;
  return one;
}

const milliseconds = (s) => (s === null ? "–" : s < 1 ? `≤ ${(1000 * s).toFixed(0)} ms` : `≤ ${s} s`);

function numbers(told) {
  const rows = {
    running: told.running,
    waiting: told.waiting,
    "tokens out": told.answer_tokens.toLocaleString(),
    "cache hits": `${(100 * told.cache_hit_rate).toFixed(0)} %`,
    "TTFT p50": milliseconds(told.ttft_p50),
    "TTFT p99": milliseconds(told.ttft_p99),
    "ITL p50": milliseconds(told.itl_p50),
    "ITL p99": milliseconds(told.itl_p99),
  };
  at("numbers").replaceChildren(
    ...Object.entries(rows).map(([name, value]) => {
      const box = document.createElement("div");
      const dt = document.createElement("dt");
      const dd = document.createElement("dd");
      dt.textContent = name;
      dd.textContent = value;
      box.append(dt, dd);
      return box;
    }),
  );
}

function steps(told) {
  const wide = 4, most = Math.floor(480 / wide), shown = told.steps.slice(-most);
  const highest = Math.max(1e-3, ...shown.map((s) => s[1]));
  at("steps").replaceChildren(
    ...shown.map(([, seconds, rows, prompts, tokens], i) => {
      const height = Math.max(1, (94 * seconds) / highest);
      const bar = made("rect", {
        class: `bar ${prompts ? "prefill" : "decode"}`,
        x: i * wide, y: 106 - height, width: wide - 1, height,
      });
      bar.append(made("title", {}, `${(1000 * seconds).toFixed(1)} ms: ${rows} answers, ${tokens} tokens of ${prompts} prompts`));
      return bar;
    }),
    made("text", { x: 6, y: 13 }, `${(1000 * highest).toFixed(1)} ms`),
  );
}

function cache(told) {
  const used = 1 - told.free_blocks / Math.max(1, told.num_blocks);
  const cells = told.kv_map, wide = 48, side = 10;
  const sums = [0, 1, 2].map((i) => cells.reduce((sum, cell) => sum + cell[i], 0) / Math.max(1, cells.length));
  at("kv").setAttribute("viewBox", `0 0 480 ${side * Math.ceil(cells.length / wide)}`);
  at("kv").replaceChildren(
    ...cells.flatMap((cell, i) => {
      const place = { x: side * (i % wide), y: side * Math.floor(i / wide), width: side - 1, height: side - 1 };
      return ["kept", "used", "shared"].flatMap((name, k) =>
        cell[k] ? [made("rect", { class: name, "fill-opacity": Math.max(0.15, cell[k]), ...place })] : [],
      );
    }),
  );
  at("kv-text").textContent =
    `${(told.num_blocks - told.free_blocks).toLocaleString()} of ${told.num_blocks.toLocaleString()} blocks in use (${(100 * used).toFixed(1)} %), ` +
    `${(100 * sums[2]).toFixed(1)} % by several; ${(100 * sums[0]).toFixed(1)} % kept for prefixes`;
}

function roof(told) {
  const points = told.operators, limit = told.roof, parts = [];
  at("roof-text").textContent = limit ? "" : "(ridgeline measure draws the roof)";
  const xs = points.map((p) => p.flops_per_byte), ys = points.map((p) => p.flops_per_second);
  if (limit) { xs.push(limit.flops_per_second / limit.bytes_per_second); ys.push(limit.flops_per_second); }
  if (!xs.length) {
    at("roof").replaceChildren(made("text", { x: 12, y: 24 }, "no step yet"));
    return;
  }
  const low = (v) => Math.log10(Math.min(...v)) - 0.3, high = (v) => Math.log10(Math.max(...v)) + 0.3;
  const [x0, x1, y0, y1] = [low(xs), high(xs), low(ys), high(ys)];
  const x = (v) => 34 + (430 * (Math.log10(v) - x0)) / (x1 - x0);
  const y = (v) => 226 - (206 * (Math.log10(v) - y0)) / (y1 - y0);
  if (limit) {
    const ridge = limit.flops_per_second / limit.bytes_per_second, start = 10 ** x0;
    parts.push(made("polyline", {
      class: "roofline",
      points: `${x(start)},${y(start * limit.bytes_per_second)} ${x(ridge)},${y(limit.flops_per_second)} 464,${y(limit.flops_per_second)}`,
    }));
  }
  for (const p of points) {
    const dot = made("circle", { class: "dot", cx: x(p.flops_per_byte), cy: y(p.flops_per_second), r: 3 + 14 * Math.sqrt(p.share) });
    dot.append(made("title", {}, `${p.name}: ${(100 * p.share).toFixed(1)} % of the step, ${(p.flops_per_second / 1e9).toFixed(1)} GFLOP/s at ${p.flops_per_byte.toFixed(1)} FLOP/B`));
    parts.push(dot);
    if (p.share > 0.08) parts.push(made("text", { x: x(p.flops_per_byte) + 9, y: y(p.flops_per_second) - 8 }, p.name));
  }
  parts.push(made("text", { x: 470, y: 244, "text-anchor": "end" }, "FLOP per byte →"), made("text", { x: 6, y: 14 }, "FLOP/s ↑"));
  at("roof").replaceChildren(...parts);
}

async function look() {
  try {
    const response = await fetch("/live", { headers: headers() });
    if (!response.ok) throw new Error(response.status === 401 ? "a key is wanted" : response.statusText);
    const told = await response.json();
    at("model").textContent = told.model;
    at("state").textContent = told.running ? `${told.running} running` : "idle";
    at("state").className = "";
    numbers(told);
    steps(told);
    cache(told);
    roof(told);
  } catch (error) {
    at("state").textContent = error instanceof TypeError ? "no answer from the server" : error.message;
    at("state").className = "bad";
  }
}

for (;;) {
  if (!document.hidden) await look();
  await new Promise((done) => setTimeout(done, 1000));
}
