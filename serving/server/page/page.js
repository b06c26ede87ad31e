"use strict";
// The page of a served export: a shopper, its ranked candidates, and what the operating point ω moves.
const signed = (value, digits) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
const plain = (value, digits) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);
const percent = (value) => (100 * value).toFixed(value < 0.0995 ? 2 : 1) + " %";
const LOG = "log";
const KNOWN = {
  ctr: "Probability that the shopper clicks the candidate when it is shown, calibrated.",
  cvr: "Probability that the shopper buys once it has clicked (conversion given a click), calibrated.",
  diversity: "higher for what differs from the rest of the list",
  fairness: "higher for what belongs to groups of providers that are shown less than their target",
  coverage: "higher for what is seldom shown over all lists",
};
let served, example, running, timer, placed = false, adjusted = [];

async function call(path, body, aside) {
  for (;;) {
    const headers = {};
    const token = sessionStorage.getItem("token");
    if (token) headers.authorization = "Bearer " + token;
    if (body) headers["content-type"] = "application/json";
    if (!aside && running) running.abort();
    const mine = new AbortController();
    if (!aside) running = mine;
    const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal: mine.signal });
    if (answer.status === 401) { await askToken(); continue; }
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    return found;
  }
}

function askToken() {
  const dialog = $("ask");
  $("token").value = "";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => {
    sessionStorage.setItem("token", $("token").value.trim());
    done();
  }, { once: true }));
}

// What the columns are called, their units, and what they mean; utility stands first, for it decides the order.
function columns() {
  const found = [{ field: "utility", text: "Utility", unit: LOG, about: placed
    ? "Relevance, and value and boosts where a request asks for them. This list is filled place after place, so what a candidate counts at its place decides the order."
    : "Decides the order, highest first: relevance plus the sum of ω · δ, and value and boosts where a request asks for them." }];
  if (placed) found.unshift({ field: "place", text: "At its place", unit: "share", about: "Decides the order: of all candidates left, the one that counts most takes the next place. It is the share of the ideal list's relevance that the candidate brings there, plus ω times how much it adds to diversity or to the share of a group, given what is above it." });
  for (const name of served.pointwise) found.push(served.probabilities.includes(name)
    ? { field: name, text: "p" + name.toUpperCase(), unit: "%", about: KNOWN[name] ?? `Probability of ${name}, calibrated.` }
    : { field: name, text: name, unit: "its own unit", about: `Predicted ${name}, in the unit of its column in the data.` });
  found.push({ field: "relevance", text: "Relevance", unit: LOG, about: `How likely the shopper takes it: a weighted sum of log probabilities (${served.pointwise.map((name) => "log " + (served.probabilities.includes(name) ? "p" + name.toUpperCase() : name)).join(", ")}). One more is 2.7 times as likely; it is below 0 because probabilities are below 1.` });
  if (placed) for (const name of served.listwise) found.push({ field: "place-" + name, text: name, unit: "share", about: `What ω ${name} counts of the number at its place: ω times what the candidate adds to ${name}, given what is above it.` });
  for (const name of adjusted) found.push({ field: name, text: "δ " + name, unit: LOG, about: `Learnt adjustment for ${name}: ${KNOWN[name] ?? "higher where the candidate serves it"}. The utility gets ω · δ, with ω from the slider.` });
  return found;
}

const nothing = () => Object.fromEntries(served.listwise.map((name) => [name, 0]));
function omega() {
  return Object.fromEntries(served.listwise.map((name) => [name, Number($("omega-" + name).value)]));
}

function setOmega(values) {
  for (const name of served.listwise) {
    $("omega-" + name).value = values[name] ?? 0;
    showOmega(name);
  }
  $("balance-about").textContent = "";
}

function showOmega(name) {
  $("value-" + name).textContent = Number($("omega-" + name).value).toFixed(2);
}

function buildSliders() {
  $("balance").hidden = !served.listwise.length;
  for (const name of served.listwise) {
    const [low, high] = served.bounds[name];
    const box = make("div", null, { class: "slider" }), line = make("div", null, { class: "name" });
    const value = make("output", null, { id: "value-" + name, for: "omega-" + name });
    const input = make("input", null, { id: "omega-" + name, type: "range", min: low, max: high, step: (high - low) / 100, "aria-label": `ω of ${name}` });
    line.append(term(`ω ${name}`, null, `How much ${name} counts against relevance: the utility gets ω · δ ${name}. 0 leaves it out.`), value);
    input.value = served.operating_point[name];
    input.addEventListener("input", () => { showOmega(name); $("balance-about").textContent = ""; rankSoon(120); });
    const ends = make("div", null, { class: "ends" });
    ends.append(make("span", low.toFixed(1)), make("span", high.toFixed(1)));
    box.append(line, input, ends);
    $("sliders").append(box);
    showOmega(name);
  }
}

function buildHead() {
  $("head").replaceChildren();
  const cell = (name, ...content) => { const head = make("th", null, { class: name, role: "columnheader", scope: "col" }); head.append(...content); $("head").append(head); };
  cell("", term("#", null, "Place in the list, from 1."));
  cell("move", term("±", null, "Places up ▲ or down ▼ against the list by pure relevance, where every ω is 0."));
  cell("item", "Item");
  for (const { text, unit, about } of columns()) cell("", term(text, unit, about));
}

async function choose() {
  example = served.examples[Number($("shopper").value)];
  $("prefix").value = example.prefix;
  $("rows").replaceChildren();
  await rankNow();
}

function rankSoon(wait) {
  clearTimeout(timer);
  timer = setTimeout(rankNow, wait);
}

function fail(error) {
  $("error").textContent = error.message;
  $("error").classList.add("shown");
}

const ask = (weights) => call("rank", { ...example.request, prefix: $("prefix").value, omega: weights });

// Ranks by the sliders.
async function rankNow() {
  if (!example) return;
  clearTimeout(timer);
  $("rows").classList.add("waiting");
  const start = performance.now();
  try {
    show(await ask(omega()), performance.now() - start);
    $("error").classList.remove("shown");
  } catch (error) {
    if (error.name === "AbortError") return;
    fail(error);
  }
  $("rows").removeAttribute("class");
}

// The first sight shows what an operating point does: the list by pure relevance, then the moved one.
async function firstSight() {
  $("rows").classList.add("waiting");
  const still = !matchMedia("(prefers-reduced-motion: no-preference)").matches;
  const touched = JSON.stringify(omega());
  try {
    const pure = await ask(nothing());
    const order = (answer) => answer.candidates.map((each) => each.position).join();
    for (const { weights, about } of trials()) {
      if (order(await ask(weights)) === order(pure)) continue;
      show(pure, null);
      if (!still) await new Promise((done) => setTimeout(done, 900));
      if (JSON.stringify(omega()) !== touched) break;
      setOmega(weights);
      $("balance-about").textContent = about;
      break;
    }
  } catch (error) {
    if (error.name === "AbortError") return;
  }
  await rankNow();
}

// The operating point; where it moves nothing, one objective after the other, ever stronger.
function* trials() {
  yield { weights: served.operating_point, about: "" };
  for (const part of [0.25, 0.5, 1]) for (const name of served.listwise) {
    const weights = { ...served.operating_point, [name]: served.bounds[name][1] * part };
    yield { weights, about: `The served operating point leaves this list as it is by relevance; shown is ω ${name} at ${weights[name].toFixed(2)}, to see what moves.` };
  }
}

function show(answer, milliseconds) {
  const filled = answer.candidates.some((candidate) => candidate.place);
  const shown = served.listwise.filter((name) => !filled || answer.candidates.some((candidate) => Math.abs(candidate.deltas[name]) > 0.0005));
  if (!served.probabilities || filled !== placed || shown.length !== adjusted.length) {
    adjusted = shown;
    served.probabilities = served.pointwise.filter((name) => name in answer.candidates[0].probabilities);
    placed = filled;
    buildHead();
  }
  const byRelevance = [...answer.candidates].sort((a, b) => b.relevance - a.relevance || a.position - b.position);
  const before = new Map(byRelevance.map((candidate, place) => [candidate.position, place + 1]));
  if (milliseconds !== null) showStatus(answer, milliseconds);
  showFacts(answer.candidates, byRelevance, before);
  const rows = $("rows"), known = new Map([...rows.children].map((row) => [row.dataset.position, row]));
  const tops = new Map([...rows.children].map((row) => [row.dataset.position, row.offsetTop]));
  const most = Object.fromEntries(served.probabilities.map((name) => [name, Math.max(...answer.candidates.map((candidate) => candidate.probabilities[name]), 1e-9)]));
  for (const candidate of answer.candidates) {
    const row = known.get(String(candidate.position)) ?? make("tr", null, { role: "row" });
    fillRow(row, candidate, before.get(candidate.position), most);
    rows.append(row);
  }
  if (milliseconds !== null) rows.dataset.answer = String(Number(rows.dataset.answer ?? 0) + 1);
  glide(rows, tops);
}

function fillRow(row, candidate, before, most) {
  const shown = example.shown[candidate.position], moved = before - candidate.rank;
  row.dataset.position = candidate.position;
  const move = make("td", moved ? (moved > 0 ? "▲ " : "▼ ") + Math.abs(moved) : "", { role: "cell", class: "move" + (moved > 0 ? " up" : moved < 0 ? " down" : "") });
  move.setAttribute("aria-label", moved ? `${moved > 0 ? "up" : "down"} by ${Math.abs(moved)}, by relevance alone number ${before}` : "unmoved");
  const item = make("td", null, { role: "cell", class: "item" });
  item.append(make("b", shown.text));
  if (example.clicked.includes(candidate.position)) item.append(make("span", "clicked", { class: "tag" }));
  if (example.converted.includes(candidate.position)) item.append(make("span", "converted", { class: "tag" }));
  const why = make("button", "why", { class: "why", type: "button", "aria-label": `why ${shown.text}` });
  why.addEventListener("click", () => explain(candidate.position, why));
  item.append(why);
  if (shown.context) item.append(make("span", shown.context, { class: "context" }));
  const cells = columns().map(({ field, text, unit }) => {
    const cell = make("td", numberOf(candidate, field), { role: "cell", "data-field": field, "data-label": text + (unit === "%" ? " (%)" : "") });
    if (field in most) { cell.className = "share"; cell.style.setProperty("--share", candidate.probabilities[field] / most[field]); }
    if (field === (placed ? "place" : "utility")) cell.className = "utility";
    const delta = candidate.deltas[field] ?? 0;
    if (Math.abs(delta) > 0.0005) cell.className = delta > 0 ? "up" : "down";
    return cell;
  });
  row.replaceChildren(make("td", candidate.rank, { role: "cell", class: "rank" }), move, item, ...cells);
}

function numberOf(candidate, field) {
  if (field === "place") return candidate.place ? plain(Object.entries(candidate.place).reduce((sum, [name, value]) => name === "cost" ? sum : sum + value, 0), 4) : "–";
  if (field.startsWith("place-")) return candidate.place ? signed(candidate.place[field.slice(6)] ?? 0, 4) : "–";
  if (field === "utility" || field === "relevance") return plain(candidate[field], 3);
  if (field in candidate.deltas) return signed(candidate.deltas[field], 3);
  return field in candidate.probabilities ? percent(candidate.probabilities[field]) : short(candidate.predictions[field]);
}

async function explain(position, button) {
  button.disabled = true;
  try {
    const body = { ...example.request, prefix: $("prefix").value, omega: omega(), explain: [position] };
    const found = (await call("explain", body, true)).candidates[0];
    $("sentences").replaceChildren(...found.sentences.map((sentence) => make("p", sentence)));
    // A log probability is below 0 for every candidate: only what ω, values and boosts add speaks for or against one.
    $("terms").replaceChildren(...Object.entries(found.terms).map(([name, value]) => line([[termName(name)], [signed(value, 3), served.pointwise.includes(name) ? "" : tone(value)]])));
    const parts = [...found.contributions].sort((a, b) => Math.abs(b.utility) - Math.abs(a.utility));
    $("parts").replaceChildren(...parts.map((part) => line([[part.text], [part.where], [signed(part.utility, 3), tone(part.utility)]])));
    $("why").showModal();
    $("why").scrollTop = 0;
    $("error").classList.remove("shown");
  } catch (error) {
    fail(error);
  }
  button.disabled = false;
}

const termName = (name) => served.probabilities.includes(name) ? `log p${name.toUpperCase()}` : served.pointwise.includes(name) ? `log ${name}` : served.listwise.includes(name) ? `ω · δ ${name}` : name;
const tone = (value) => value > 0.0005 ? "up" : value < -0.0005 ? "down" : "";
function line(cells) {
  const row = make("tr");
  for (const [text, name] of cells) row.append(make("td", text, name ? { class: name } : {}));
  return row;
}

function glide(rows, tops) {
  if (!matchMedia("(prefers-reduced-motion: no-preference)").matches) return;
  for (const row of rows.children) {
    const from = tops.get(row.dataset.position);
    if (from === undefined || from === row.offsetTop) continue;
    row.style.transition = "none";
    row.style.transform = `translateY(${from - row.offsetTop}px)`;
    requestAnimationFrame(() => requestAnimationFrame(() => { row.style.transition = ""; row.style.transform = ""; }));
  }
}

function showStatus(answer, milliseconds) {
  const { model_ms: model, prefix_cached: cached } = answer.served;
  const pills = [["pill", `${milliseconds.toFixed(0)} ms`, null, "Time from this page's question to its answer."], ["pill", `model ${model.toFixed(0)} ms`, null, "Time of the model's pass within it."]];
  if (cached !== null) pills.push([cached ? "pill good" : "pill", cached ? "shopper cached" : "shopper encoded", "cached", "Whether the shopper's text was encoded for this answer, or its keys and values were kept from an earlier one."]);
  $("status").replaceChildren(...pills.map(([name, text, id, about]) => {
    const pill = make("span", null, { class: name, ...(id ? { id } : {}) });
    pill.append(term(text, null, about));
    return pill;
  }));
}

function showFacts(ranked, byRelevance, before) {
  const moved = ranked.filter((candidate) => before.get(candidate.position) !== candidate.rank).length;
  const cut = Math.min(10, ranked.length);
  const facts = [["Candidates", String(ranked.length), "", "How many items are ranked for this shopper."], ["Moved", String(moved), "against pure relevance", "Candidates at another place than by relevance alone."]];
  if (example.clicked.length) {
    const hits = (list) => list.slice(0, cut).filter((candidate) => example.clicked.includes(candidate.position)).length;
    facts.push([`Clicked in the first ${cut}`, `${hits(ranked)} of ${example.clicked.length}`, `relevance alone ${hits(byRelevance)}`, `How many of the items that the shopper really clicked are among the first ${cut}.`]);
  }
  const mean = (list) => list.slice(0, cut).reduce((sum, candidate) => sum + candidate.relevance, 0) / cut;
  facts.push(["Relevance given up", Math.max(0, mean(byRelevance) - mean(ranked)).toFixed(3), `log, mean of the first ${cut}`, `How much lower the mean relevance of the first ${cut} is than without ω; 0.1 is about 10 % less likely to be taken.`]);
  $("facts").replaceChildren(...facts.map(([name, value, note, about]) => {
    const box = make("div"), head = make("dt"), number = make("dd", value + " ");
    head.append(term(name, null, about));
    if (note) number.append(make("small", note));
    box.append(head, number);
    return box;
  }));
}

async function start() {
  try {
    served = await call("examples");
  } catch (error) {
    fail(error);
    return;
  }
  $("export").textContent = `${served.export} · ${[...served.pointwise, ...served.listwise].join(", ")}`;
  for (const kept of served.promises) {
    const last = kept.value === null ? "no window yet" : `${kept.value.toFixed(3)} in the last window, ${kept.broken} of ${kept.windows} broken`;
    $("export").textContent += ` · keeps ${kept.promise} by ω ${kept.objective} ${kept.omega.toFixed(2)} (${last})`;
  }
  document.title = `${served.export} · Equipoise`;
  served.examples.forEach((each, place) => $("shopper").append(make("option", each.name, { value: place })));
  buildSliders();
  $("shopper").addEventListener("change", choose);
  $("prefix").addEventListener("input", () => rankSoon(400));
  $("chosen").addEventListener("click", () => { setOmega(served.operating_point); rankNow(); });
  $("pure").addEventListener("click", () => { setOmega({}); rankNow(); });
  if (!served.examples.length) return fail(new Error("The export keeps no example requests: send some to /rank."));
  const first = Math.max(0, served.examples.findIndex((each) => each.shown.length >= 10));
  $("shopper").value = first;
  example = served.examples[first];
  $("prefix").value = example.prefix;
  await firstSight();
}
