"use strict";
// Draws the comparison from its JSON: every view shows the pools that pass the filters; a click marks one everywhere.
let data, colours, directions, words;
const state = { shown: [], marked: null, sort: { results: null, changes: null } };

function start(given) {
  data = given;
  const methods = [...new Set(data.pools.map((pool) => pool.method))];
  colours = new Map(methods.map((method, n) => [method, `var(--c${n % 8})`]));
  const all = [...data.metrics, ...data.points];
  directions = new Map(all.map((metric) => [metric.name, metric.direction]));
  words = new Map(all.map((metric) => [metric.name, metric.words]));
  data.pools.forEach((pool, number) => {
    pool.number = number;
    const settings = data.settings.map((setting) => `${setting.key}=${setting.values[number]}`);
    pool.text = [pool.name, pool.method, ...settings, ...pool.runs.flatMap((run) => [run.name, run.folder])].join(" ").toLowerCase();
  });
  $("facts").textContent = `${data.runs} runs of ${data.pools.length} configs on ${data.split}`;
  legend($("legend"), colours, data.by);
  axes(); filters(); groups(); plain();
  update();
  reachable();
}

function axes() {
  for (const [id, chosen] of [["axis-x", data.axes[1]], ["axis-y", data.axes[0]]]) {
    for (const [label, metrics] of [["at every operating point", data.points], ["of a run", data.metrics]]) {
      const group = make("optgroup", null, { label });
      for (const metric of metrics) if (metric.direction) group.append(make("option", metric.words, { value: metric.name }));
      $(id).append(group);
    }
    if (chosen) $(id).value = chosen;
    $(id).addEventListener("change", scatter);
  }
}

function filters() {
  for (const setting of data.settings) {
    const values = [...new Set(setting.values)];
    if (values.length > 40) continue;
    const select = make("select", null, { "data-setting": setting.key });
    select.append(make("option", "all", { value: "" }));
    for (const value of values) select.append(make("option", cut(value, 40), { value: `=${value}` }));
    select.addEventListener("change", update);
    const label = make("label", `${setting.key} `);
    label.append(select);
    $("selects").append(label);
  }
  $("search").addEventListener("input", update);
  $("reset").addEventListener("click", () => {
    $("search").value = "";
    for (const select of $("selects").querySelectorAll("select")) select.value = "";
    state.marked = null;
    update();
  });
}

function update() {
  const wanted = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const held = [...$("selects").querySelectorAll("select")].filter((select) => select.value);
  const values = new Map(data.settings.map((setting) => [setting.key, setting.values]));
  state.shown = data.pools.filter((pool) =>
    wanted.every((word) => pool.text.includes(word)) &&
    held.every((select) => `=${values.get(select.dataset.setting)[pool.number]}` === select.value));
  if (!state.shown.some((pool) => pool.number === state.marked)) state.marked = null;
  $("count").textContent = `${state.shown.length} of ${data.pools.length} shown`;
  scatter(); parallel(); results(); changes(); curves(); settings(); folders();
}

function mark(number) {
  state.marked = state.marked === number ? null : number;
  marked();
}

function marked() {
  for (const svg of document.querySelectorAll("svg")) svg.classList.toggle("marked", state.marked !== null);
  for (const node of document.querySelectorAll("[data-pool]")) node.classList.toggle("on", node.dataset.pool === String(state.marked));
}

function told(node, pool, text) {
  node.dataset.pool = pool.number;
  node.addEventListener("click", () => mark(pool.number));
  hover(node, text);
}

function dots(nameX, nameY) {
  const perPoint = [nameX, nameY].some((name) => !data.metrics.some((metric) => metric.name === name));
  const found = [];
  for (const pool of state.shown) {
    for (const [place, values] of perPoint ? Object.entries(pool.points) : [["", {}]]) {
      const [x, y] = [nameX, nameY].map((name) => values[name] ?? pool.metrics[name]?.[0]);
      if (x !== undefined && y !== undefined) found.push({ pool, place, x, y });
    }
  }
  return found;
}

// Which dots no other one dominates: from the best x on, each must be better in y than all before it.
function frontOf(found, signX, signY) {
  const order = [...found].sort((a, b) => signX * (b.x - a.x) || signY * (b.y - a.y));
  let best = -Infinity;
  let last = null;
  const front = [];
  for (const dot of order) {
    const equal = last && dot.x === last.x && dot.y === last.y;
    if (signY * dot.y > best || equal) { front.push(dot); best = Math.max(best, signY * dot.y); last = dot; }
  }
  return front;
}

function scatter() {
  const svg = $("scatter"), nameX = $("axis-x").value, nameY = $("axis-y").value;
  const found = dots(nameX, nameY), front = frontOf(found, directions.get(nameX), directions.get(nameY));
  svg.dataset.front = front.length;
  if (!found.length) return empty(svg, "no run shown has both metrics");
  const [x, y] = frame(svg, 720, 460, found.map((dot) => dot.x), found.map((dot) => dot.y), { left: 62, right: 16, top: 14, bottom: 46 });
  draw(svg, "text", { class: "title", x: 391, y: 454, "text-anchor": "middle" }, words.get(nameX));
  draw(svg, "text", { class: "title", transform: "translate(14 220) rotate(-90)", "text-anchor": "middle" }, words.get(nameY));
  // From the best x on, x goes first: a step in y first would promise what no dot reaches.
  const path = front.map((dot, n) => n ? `H${x(dot.x)}V${y(dot.y)}` : `M${x(dot.x)} ${y(dot.y)}`);
  draw(svg, "path", { class: "front", d: path.join("") });
  const onFront = new Set(front);
  for (const dot of [...found].sort((a, b) => onFront.has(a) - onFront.has(b))) {
    const node = draw(svg, "circle", { class: onFront.has(dot) ? "dot" : "dot dominated", cx: x(dot.x), cy: y(dot.y), r: onFront.has(dot) ? 5.5 : 4, style: `fill:${colours.get(dot.pool.method)}` });
    Object.assign(node.dataset, { x: dot.x, y: dot.y, place: dot.place });
    told(node, dot.pool, [dot.pool.name, dot.place && `at ${dot.place}`, `${words.get(nameX)} ${short(dot.x)}`, `${words.get(nameY)} ${short(dot.y)}`].filter(Boolean).join("\n"));
  }
  marked();
}

function parallel() {
  const svg = $("parallel"), names = data.shown.filter((name) => directions.get(name) && state.shown.some((pool) => pool.metrics[name])).slice(0, 12);
  const pools = state.shown.filter((pool) => names.some((name) => pool.metrics[name]));
  if (!names.length) return empty(svg, "no run shown is evaluated");
  svg.replaceChildren();
  const width = 720, height = 460, top = 58, bottom = 420, left = 58;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const place = (n) => names.length > 1 ? left + n * (width - 2 * left) / (names.length - 1) : width / 2;
  const scales = names.map((name, n) => {
    const values = pools.filter((pool) => pool.metrics[name]).map((pool) => pool.metrics[name][0] * directions.get(name));
    const low = Math.min(...values), high = Math.max(...values);
    draw(svg, "line", { class: "grid", x1: place(n), x2: place(n), y1: top, y2: bottom });
    const [head, at] = words.get(name).split(" at ");
    const end = names.length > 1 && n === names.length - 1;
    const where = { x: end ? width - 4 : place(n), "text-anchor": end ? "end" : "middle" };
    draw(svg, "text", { ...where, y: n % 2 ? 22 : 10 }, cut(head, 20));
    if (at) draw(svg, "text", { ...where, y: n % 2 ? 34 : 22, "font-style": "italic" }, cut(at, 22));
    draw(svg, "text", { x: place(n), y: top - 6, "text-anchor": "middle" }, short(high * directions.get(name)));
    draw(svg, "text", { x: place(n), y: bottom + 16, "text-anchor": "middle" }, short(low * directions.get(name)));
    return (value) => high > low ? bottom - (value * directions.get(name) - low) / (high - low) * (bottom - top) : (top + bottom) / 2;
  });
  for (const pool of pools) {
    let d = "", open = false;
    names.forEach((name, n) => {
      const value = pool.metrics[name];
      if (value) d += `${open ? "L" : "M"}${place(n)} ${scales[n](value[0])}`;
      open = Boolean(value);
    });
    const line = draw(svg, "path", { class: "line", d, style: `stroke:${colours.get(pool.method)}` });
    told(line, pool, [pool.name, ...names.map((name) => `${words.get(name)} ${pool.metrics[name]?.[2] ?? "–"}`)].join("\n"));
  }
  marked();
}

// A table whose cells are [text, value to sort by, class, attributes]; the first column is the pool's name.
function table(id, heads, pools, cells, sorted) {
  let rows = pools.map((pool) => [pool, cells(pool)]);
  if (sorted) {
    const key = ([, found]) => found[sorted.column][1];
    const compare = (a, b) => typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
    const [held, absent] = [rows.filter((each) => key(each) != null), rows.filter((each) => key(each) == null)];
    rows = [...held.sort((a, b) => (sorted.down ? -1 : 1) * compare(key(a), key(b))), ...absent];
  }
  const arrow = (column) => sorted?.column === column ? (sorted.down ? " ▼" : " ▲") : "";
  const lines = fill($(id), heads.map((head, column) => head + arrow(column)), rows.map(([, found]) => found.map(([text, , ...more]) => [text, ...more])));
  lines.forEach((line, n) => {
    line.dataset.pool = rows[n][0].number;
    line.addEventListener("click", () => mark(rows[n][0].number));
  });
  if (id in state.sort) $(id).querySelectorAll("th").forEach((node, column) => node.addEventListener("click", () => {
    state.sort[id] = { column, down: sorted?.column === column ? !sorted.down : true };
    id === "results" ? results() : changes();
  }));
  marked();
}

function results() {
  const costs = { seconds: "time", peak_memory_bytes: "peak memory" };
  const delta = data.pools.some((pool) => pool.delta !== null);
  const heads = ["run", "seeds", ...data.shown.map((name) => words.get(name)), ...(delta ? ["Δm %"] : []), ...data.costs.map((key) => costs[key])];
  table("results", heads, state.shown, (pool) => [
    [pool.name, pool.name], [pool.seeds, pool.seeds],
    ...data.shown.map((name) => {
      const value = pool.metrics[name], best = pool.best.includes(name);
      return value ? [value[2] + (best ? " ★" : ""), value[0], best ? "best" : "", { "data-metric": name, "data-value": value[0] }] : ["–", null];
    }),
    ...(delta ? [[pool.delta === null ? "–" : `${pool.delta > 0 ? "+" : ""}${pool.delta.toFixed(2)}`, pool.delta]] : []),
    ...data.costs.map((key) => pool.costs[key] ? [pool.costs[key][1], pool.costs[key][0]] : ["–", null]),
  ], state.sort.results);
}

function changes() {
  $("changes-card").hidden = !data.baseline;
  if (!data.baseline) return;
  $("changes-title").textContent = `Change against ${data.baseline}`;
  const pools = state.shown.filter((pool) => Object.keys(pool.changes).length);
  table("changes", ["run", ...data.changed.map((name) => words.get(name))], pools, (pool) => [
    [pool.name, pool.name],
    ...data.changed.map((name) => {
      const change = pool.changes[name];
      return change ? [change[1], change[0], change[2] > 0 ? "up" : change[2] < 0 ? "down" : "", { "data-metric": name, "data-value": change[0] }] : ["–", null];
    }),
  ], state.sort.changes);
}

function settings() {
  $("settings-card").hidden = !data.settings.length;
  table("settings", ["run", ...data.settings.map((setting) => setting.key)], state.shown, (pool) =>
    [[pool.name], ...data.settings.map((setting) => [cut(setting.values[pool.number], 60)])]);
}

function folders() {
  const lines = state.shown.flatMap((pool) => pool.runs.map((run) => ({ ...run, number: pool.number })));
  table("folders", ["run", "state", "folder"], lines, (run) => [[run.name], [run.state], [run.folder]]);
}

function groups() {
  const there = new Set(data.pools.flatMap((pool) => pool.runs.flatMap((run) => Object.keys(run.curves))));
  for (const group of there) $("group").append(make("option", group, { value: group }));
  $("group").addEventListener("change", curves);
}

function curves() {
  const group = $("group").value, box = $("curves");
  box.replaceChildren();
  const lines = state.shown.flatMap((pool) => pool.runs.map((run) => ({ pool, run, named: run.curves[group] ?? {} })));
  for (const name of [...new Set(lines.flatMap((line) => Object.keys(line.named)))]) {
    const held = lines.filter((line) => line.named[name]);
    const nodes = chart(box, name, held.map(({ pool, named }) => ({ steps: named[name][0], values: named[name][1], colour: colours.get(pool.method) })));
    held.forEach(({ pool, run, named }, n) => told(nodes[n], pool, `${run.name}\n${name}: last ${short(named[name][1].at(-1))}`));
  }
  marked();
}

// What no filter changes: fronts of the methods and notes.
function plain() {
  $("fronts-card").hidden = !data.fronts;
  if (data.fronts) {
    $("fronts-title").textContent = data.fronts.title;
    $("frame").textContent = data.fronts.foot.join(" ");
    const rows = data.fronts.rows.map((cells) => ({ cells, number: -1 }));
    table("fronts", data.fronts.columns, rows, (row) => row.cells.map((text) => [text]));
  }
  $("notes-card").hidden = !data.notes.length;
  for (const note of data.notes) $("notes").append(make("li", note));
}
