"use strict";
// The studio: asks its server for what folders hold, starts commands, and draws what they have written so far.
const TITLES = { losses: "Losses", validation: "On the validation split", conflicts: "Share of steps in conflict", cosines: "Cosines of gradients", weights: "Weights α on raw gradients" };
const ABOUT = { validate: "Check", prepare: "Prepare the data", preview: "Preview what the model reads", audit: "Look for faults in the data", estimate: "Estimate memory", train: "Train" };
const ON_RUN = { resume: "Go on training", evaluate: "Evaluate on test", front: "Measure the front", diagnose: "Diagnose conflicts", report: "Make the report", open: "Open the report", export: "Export", again: "Export again" };
const LIVE = 1500;
let state = { runs: [], jobs: [], configs: [], commands: [] }, tables = [], run = null, runData = null, jobName = null, chosen = new Set(), front = null, text = { name: "", saved: "" };

function token() {
  const given = new URLSearchParams(location.search).get("token");
  if (given) {
    sessionStorage.setItem("studio-token", given);
    history.replaceState(null, "", location.pathname + location.hash);  // not to stand in a picture of the screen
  }
  return sessionStorage.getItem("studio-token") ?? "";
}

async function ask(path, body, method) {
  const headers = { authorization: "Bearer " + token() };
  if (body) headers["content-type"] = "application/json";
  const answer = await fetch(path, { method: method ?? (body ? "POST" : "GET"), headers, body: body && JSON.stringify(body) });
  const kind = answer.headers.get("content-type") ?? "", found = kind.includes("json") ? await answer.json() : await answer.text();
  if (answer.status === 401) throw new Error("This page needs the address with its token: copy it from the terminal in which the studio runs.");
  if (!answer.ok) throw new Error(found.error ?? found);
  return found;
}

// Does something that may be refused, and says so at the top.
async function trying(action) {
  try {
    const done = await action();
    say("");
    return done;
  } catch (error) {
    say(error instanceof TypeError && !navigator.onLine ? "The studio does not answer: start it again in the terminal." : error.message);
    return null;
  }
}

function say(sentence) {
  $("error").textContent = sentence;
  $("error").hidden = !sentence;
}

const at = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const button = (words, action, main) => {
  const node = make("button", words, { type: "button", ...(main ? { class: "main" } : {}) });
  node.addEventListener("click", () => trying(action));
  return node;
};

function show() {
  const view = ["tables", "settings", "run", "compare"].includes(location.hash.slice(1)) ? location.hash.slice(1) : "tables";
  for (const section of document.querySelectorAll(".view")) section.classList.toggle("shown", section.id === `view-${view}`);
  for (const link of $("views").children) link.toggleAttribute("aria-current", link.hash === `#${view}`);
  if (view === "compare") trying(compare);
}

// Tables: which file is which, and a first configuration of them.
async function look() {
  tables = await ask("api/tables");
  $("roles").replaceChildren(...tables.map(({ path, columns }) => {
    const label = make("label", null, { class: "check" }), about = make("span");
    about.append(path, make("small", columns.join(", ")));
    label.append(make("input", null, { type: "checkbox", value: path, checked: "" }), about);
    return label;
  }));
}

async function propose() {
  const chosenTables = [...document.querySelectorAll("#roles input:checked")].map(({ value }) => value);
  if (!chosenTables.length) throw new Error("No table is chosen: impressions and items at least.");
  const formats = $("formats").value.split(",").map((each) => each.trim()).filter(Boolean);
  const asked = { name: $("name").value, tables: chosenTables, formats, backbone: $("backbone").value, steps: Number($("steps").value) };
  $("propose").disabled = true;
  try {
    const found = await ask("api/draft", asked);
    if (state.configs.includes(found.config)) throw new Error(`${found.config} exists already: choose another name, or open it under Settings.`);
    $("said").textContent = found.said;
    $("said").hidden = !found.said;
    await ask(`api/configs/${found.config}`, { text: found.text }, "PUT");
    await refresh();
    await openConfig(found.config);
    location.hash = "#settings";
  } finally {
    $("propose").disabled = false;
  }
}

// Settings: the text of a config, and the commands on it.
async function openConfig(name) {
  $("config").value = name;
  text = { name, saved: name ? await ask(`api/configs/${name}`) : "" };
  $("text").value = text.saved;
}

async function save() {
  if (!text.name) throw new Error("No settings are open: propose some from your tables first.");
  if ($("text").value === text.saved) return;
  await ask(`api/configs/${text.name}`, { text: $("text").value }, "PUT");
  text.saved = $("text").value;
}

async function onConfig(command) {
  await save();
  watch((await ask("api/jobs", { command, config: text.name })).name);
}

function configs() {
  const select = $("config"), names = state.configs.join();
  if (select.dataset.names === names) return;
  select.dataset.names = names;
  select.replaceChildren(...state.configs.map((name) => make("option", name, { value: name })));
  select.value = text.name;
  if (!text.name && state.configs.length) trying(() => openConfig(state.configs[0]));
  const known = Object.keys(ABOUT).filter((command) => state.commands.includes(command) && !(command === "audit" && state.commands.includes("preview")));
  $("config-buttons").replaceChildren(...known.map((command) => button(ABOUT[command], () => onConfig(command), command === "train")));
}

// Commands: what runs and ran, with its output.
function watch(name) {
  jobName = name;
  trying(refresh);
}

async function showJob() {
  const job = jobName && await ask(`api/jobs/${jobName}`);
  for (const [prefix, shown] of [["job", job], ["run-job", job && run && job.subject === run ? job : null]]) {
    $(`${prefix}-card`).hidden = !shown;
    if (!shown) continue;
    const output = $(prefix === "job" ? "output" : "run-output"), end = output.scrollTop + output.clientHeight >= output.scrollHeight - 30;
    $(`${prefix}-title`).textContent = job.words;
    $(`${prefix}-state`).textContent = `${job.state}${job.code === null ? "" : `, exit code ${job.code}`}, started at ${at(job.started)}`;
    $(`${prefix}-state`).dataset.state = job.state;
    if (output.textContent !== job.output) output.textContent = job.output;
    if (end) output.scrollTop = output.scrollHeight;
    $(prefix === "job" ? "stop" : "run-stop").hidden = job.state !== "running";
  }
  if (job?.command === "train" && job.state === "running" && !run && state.runs.some((each) => each.run === job.subject)) run = job.subject;
}

const stop = () => trying(async () => { await ask(`api/jobs/${jobName}/stop`, {}); await refresh(); });

function lists() {
  fillList($("runs"), state.runs, "No run yet.", (each) => {
    const box = make("input", null, { type: "checkbox", "aria-label": `compare ${each.run}` });
    box.checked = chosen.has(each.run);
    box.addEventListener("change", () => { if (box.checked) chosen.add(each.run); else chosen.delete(each.run); show(); });
    const name = button(each.run.replace(/^runs\//, ""), () => openRun(each.run));
    name.toggleAttribute("aria-current", each.run === run);
    return [box, name, make("small", `${each.state}, ${each.steps}`, { class: each.state, title: `${each.steps} steps` })];
  });
  fillList($("jobs"), state.jobs.slice(0, 12), "Nothing was started here yet.", (each) => {
    const name = button(`${each.command} ${each.subject.replace(/^.*\//, "")}`, () => { watch(each.name); if (each.subject !== run) location.hash = "#settings"; });
    name.toggleAttribute("aria-current", each.name === jobName);
    return [name, make("small", each.state, { class: each.state })];
  });
}

// Lists are drawn anew only where they have changed, so that what has the focus keeps it.
function fillList(list, entries, none, parts) {
  const now = JSON.stringify([entries, run, jobName, [...chosen]]);
  if (list.dataset.now === now) return;
  list.dataset.now = now;
  list.replaceChildren(...(entries.length ? entries.map((each) => { const line = make("li"); line.append(...parts(each)); return line; }) : [make("li", none)]));
}

// A run: its state, curves so far, verdict and front.
async function openRun(name) {
  run = name;
  runData = front = null;
  $("run-curves").replaceChildren();
  location.hash = "#run";
  await refresh();
}

async function showRun() {
  if (!run || !state.runs.some((each) => each.run === run)) return;
  const found = await ask(`api/run?run=${encodeURIComponent(run)}`), before = JSON.stringify(runData);
  if (JSON.stringify(found) === before) return;
  runData = found;
  $("run-title").textContent = run;
  $("run-state").textContent = `${found.state}: ${found.steps}${found.most_steps ? ` of ${found.most_steps}` : ""} steps`;
  $("run-state").dataset.state = found.state;
  $("run-facts").replaceChildren(...found.facts.filter(([label]) => label !== "state").flatMap(([label, words]) => [make("dt", label), make("dd", words)]));
  const start = (command, more) => async () => watch((await ask("api/jobs", { command, run, ...more })).name);
  const parts = found.finished
    ? [["evaluate", start("evaluate")], ["front", start("front")], ["diagnose", start("diagnose")], ["report", start("report")], ...(found.report ? [["open", () => read("Report", `api/report?run=${encodeURIComponent(run)}`)]] : []), found.export ? ["again", start("export", { overwrite: true })] : ["export", start("export")]]
    : found.state === "training" ? [["diagnose", start("diagnose")]] : [["resume", start("train")], ["diagnose", start("diagnose")]];
  $("run-buttons").replaceChildren(...parts.map(([name, action]) => button(ON_RUN[name], action, ["resume", "export"].includes(name))));
  if (found.export) $("run-buttons").append(make("span", `Served by: equipoise serve ${found.export}`, { class: "hint", id: "exported" }));
  $("verdict-card").hidden = !found.verdict.length;
  $("verdict").replaceChildren(...found.verdict.map((sentence) => make("li", sentence)));
  drawCurves($("run-curves"), [{ name: run, groups: found.groups }], (name) => colourOf(found.objectives, name));
  $("curves-card").hidden = !Object.keys(found.groups).length;
  $("front-card").hidden = !found.front;
  if (found.front && JSON.stringify(found.front) !== JSON.stringify(front)) showFront(found.front);
}

const colourOf = (objectives, name) => { const place = objectives.indexOf(name.split(/[/-]/)[0]); return place < 0 ? "var(--brand)" : `var(--c${place % 8})`; };

function drawCurves(parent, runs, colour) {
  parent.replaceChildren();
  for (const [group, title] of Object.entries(TITLES)) {
    const names = [...new Set(runs.flatMap((each) => Object.keys(each.groups[group] ?? {})))];
    if (!names.length) continue;
    const box = make("div", null, { class: "charts", "data-group": group });
    parent.append(make("h3", title), box);
    for (const name of names) {
      const held = runs.filter((each) => each.groups[group]?.[name]);
      const nodes = chart(box, name, held.map((each) => ({ steps: each.groups[group][name][0], values: each.groups[group][name][1], colour: colour(name, each.name) })));
      nodes.forEach((node, n) => { const values = held[n].groups[group][name][1]; hover(node, `${held[n].name}\n${name}: first ${short(values[0])}, last ${short(values.at(-1))}`); });
    }
    inRows(box);
  }
}

// The front: bounds on the further axes move the point, the most relevant one that keeps them.
function showFront(found) {
  front = found;
  const [first, ...others] = found.axes, words = new Map(found.names.map(({ name, words }) => [name, words]));
  const counts = found.choices.find((choice) => choice.counts);
  $("front-about").textContent = counts ? `Chosen: ${counts.words}.` : "No point is chosen yet: an export serves pure relevance.";
  $("bounds").replaceChildren(...others.map((axis) => {
    const values = found.points.map((point) => point.metrics[axis]).filter((value) => value != null), low = Math.min(...values), high = Math.max(...values);
    const label = make("label", `${words.get(axis)} at least `, { for: `bound-${axis}` }), value = make("output", null, { id: `value-${axis}` });
    const input = make("input", null, { type: "range", id: `bound-${axis}`, min: 0, max: 100, step: 1, "data-low": low, "data-high": high });
    const mine = counts && found.points[counts.point]?.metrics[axis];
    input.value = mine == null || high === low ? 0 : Math.floor(100 * (mine - low) / (high - low));
    input.addEventListener("input", () => drawFront(words));
    label.append(value);
    const box = make("div");
    box.append(label, input);
    return box;
  }));
  drawFront(words);
}

const bound = (axis) => { const input = $(`bound-${axis}`); return Number(input.dataset.low) + (input.dataset.high - input.dataset.low) * input.value / 100; };

function pick() {
  const [first, ...others] = front.axes;
  const held = front.points.filter((point) => others.every((axis) => point.metrics[axis] >= bound(axis) - 1e-12));
  return held.reduce((best, point) => !best || point.metrics[first] > best.metrics[first] ? point : best, null);
}

function drawFront(words) {
  const [first, ...others] = front.axes, here = pick(), svg = $("scatter"), across = others[0];
  for (const axis of others) $(`value-${axis}`).textContent = short(bound(axis));
  const held = front.points.filter((point) => point.metrics[first] != null && point.metrics[across] != null);
  const [x, y] = frame(svg, 620, 380, held.map((point) => point.metrics[across]), held.map((point) => point.metrics[first]), { left: 60, right: 14, top: 12, bottom: 44 });
  draw(svg, "text", { class: "title", x: 330, y: 374, "text-anchor": "middle" }, words.get(across));
  draw(svg, "text", { class: "title", transform: "translate(14 190) rotate(-90)", "text-anchor": "middle" }, words.get(first));
  for (const point of [...held].sort((a, b) => (a === here) - (b === here) || a.on_front - b.on_front)) {
    const kept = others.every((axis) => point.metrics[axis] >= bound(axis) - 1e-12);
    const dot = draw(svg, "circle", { class: `dot${point.on_front ? "" : " dominated"}${point === here ? " here" : ""}${kept ? "" : " barred"}`, cx: x(point.metrics[across]), cy: y(point.metrics[first]), r: point === here ? 9 : point.on_front ? 5 : 3.5, style: "fill:var(--front)" });
    hover(dot, [point.words, ...front.axes.map((axis) => `${words.get(axis)} ${short(point.metrics[axis])}`)].join("\n"));
  }
  $("take").disabled = !here;
  $("point").textContent = here ? `${here.words}: ${front.axes.map((axis) => `${words.get(axis)} ${short(here.metrics[axis])}`).join(", ")}` : "No measured point keeps these bounds.";
}

// What is taken is the point itself: bounds are its own values.
const take = () => trying(async () => {
  const here = pick(), others = front.axes.slice(1);
  watch((await ask("api/jobs", { command: "front", run, at_least: Object.fromEntries(others.map((axis) => [axis, here.metrics[axis]])) })).name);
});

// Comparison: figures and curves of the chosen runs, and the whole page of `compare`.
async function compare() {
  const names = [...chosen].filter((name) => state.runs.some((each) => each.run === name));
  $("compare-about").textContent = names.length < 2 ? "Tick two runs or more in the list of runs." : `${names.length} runs; figures are of the test split where it is evaluated.`;
  $("compare-page").disabled = names.length < 2;
  $("open-comparison").hidden = !state.comparison;
  const found = await Promise.all(names.map((name) => ask(`api/run?run=${encodeURIComponent(name)}`)));
  const heads = [...new Set(found.flatMap((each) => Object.keys(each.figures)))];
  fill($("figures"), ["run", "state", "steps", ...heads], names.map((name, n) => [[name], [found[n].state], [String(found[n].steps)], ...heads.map((head) => [found[n].figures[head] == null ? "–" : found[n].figures[head].toFixed(4)])]));
  const colours = new Map(names.map((name, n) => [name, `var(--c${n % 8})`]));
  $("legend").replaceChildren();
  legend($("legend"), colours);
  $("overlay-card").hidden = !found.some((each) => Object.keys(each.groups).length);
  drawCurves($("overlay"), names.map((name, n) => ({ name, groups: found[n].groups })), (name, each) => colours.get(each));
}

async function read(title, path) {
  $("frame").srcdoc = await ask(path);
  $("reader-title").textContent = title;
  $("reader").showModal();
}

async function refresh() {
  state = await ask("api/state");
  $("workspace").textContent = state.workspace;
  configs();
  await showJob();
  lists();
  await showRun();
  document.body.dataset.answer = String(Number(document.body.dataset.answer ?? 0) + 1);
}

async function poll() {
  if (!document.hidden) {
    try {
      await refresh();
      if ($("error").dataset.lost) { say(""); delete $("error").dataset.lost; }
    } catch (error) {
      $("error").dataset.lost = "1";
      say(error instanceof TypeError ? "The studio does not answer: start it again in the terminal. What it has started goes on." : error.message);
    }
  }
  setTimeout(poll, LIVE);
}

async function start() {
  token();
  addEventListener("hashchange", show);
  $("look").addEventListener("click", () => trying(look));
  $("propose").addEventListener("click", () => trying(propose));
  $("config").addEventListener("change", () => trying(() => openConfig($("config").value)));
  $("stop").addEventListener("click", stop);
  $("run-stop").addEventListener("click", stop);
  $("take").addEventListener("click", take);
  $("compare-page").addEventListener("click", () => trying(async () => { watch((await ask("api/jobs", { command: "compare", runs: [...chosen] })).name); location.hash = "#settings"; }));
  $("open-comparison").addEventListener("click", () => trying(() => read("Comparison", "api/comparison")));
  $("close").addEventListener("click", () => $("reader").close());
  show();
  await trying(look);
  await poll();
}
