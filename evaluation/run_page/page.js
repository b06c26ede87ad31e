"use strict";
// Draws the report of one run from its JSON; a part that is missing says which command makes it.
const percent = (value, digits = 1) => value == null ? "–" : `${(100 * value).toFixed(digits)} %`;
const fixed = (value, digits = 4) => value == null ? "–" : value.toFixed(digits);
const whole = (value) => value == null ? "–" : value.toLocaleString("en");
const signed = (value) => value == null ? "–" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
const numeric = (name, value, text, kind = "") => [text, kind, value == null ? {} : { "data-key": name, "data-value": value }];
const SECTIONS = [["verdict-card", "Verdict"], ["front", "Trade-off"], ["quality", "Baselines"], ["calibration", "Calibration"], ["points-card", "Operating points"], ["groups-card", "User groups"], ["recall", "Recall"], ["slates", "Lists"], ["balance", "Conflicts"], ["curves-card", "Training"], ["data", "Data"], ["run", "Run"], ["missing-card", "Missing"]];
const GROUPS = { losses: "Losses", weights: "Weights α of the objectives", cosines: "Cosines of pairs of gradients", validation: "On the validation split", "share in conflict": "Share of steps in conflict", learning: "Learning rate and gradient" };

let page, colours;

function start(given) {
  page = given;
  document.title = `Equipoise: ${page.name}`;
  $("name").textContent = page.name;
  $("folder").textContent = page.folder;
  colours = new Map(page.objectives.map((name, n) => [name, `var(--c${n % 8})`]));
  legend($("legend"), colours);
  for (const [label, text] of page.facts) $("facts").append(make("dt", label), make("dd", text));
  $("config").textContent = page.config;
  if (page.recall === null) $("recall").remove();  // the run trains none
  else part("recall", page.recall, recall);
  part("verdict-card", page.verdict, verdict);
  part("front", page.front, front);
  for (const [id, show] of [["quality", quality], ["calibration", calibration], ["points-card", points], ["groups-card", userGroups]]) part(id, page.evaluation, show);
  part("slates", page.slates, slates);
  part("balance", page.balance, balance);
  part("curves-card", page.curves, curves);
  part("data", page.data, dataset);
  if (!$("missing").children.length) $("missing-card").remove();
  for (const [id, text] of SECTIONS) if ($(id)) $("contents").append(make("a", text, { href: `#${id}` }));
  reachable();
}

// A metric's name that explains itself, where there is an explanation.
const said = (words) => {
  const plain = words.split(/[@ ]/).map((_, n, all) => all.slice(n).join(" ")).concat(words.split("@")[0], words.split("@")[0].split(" ").slice(1).join(" ")).find((name) => page.about[name]);
  return plain ? term(words, null, page.about[plain]) : words;
};

// Shows a part, or takes it away and says at the end what is missing and how to get it, once for each command.
function part(id, found, show) {
  if (!("missing" in found)) return show(found);
  $(id).remove();
  if ([...$("missing").children].some((line) => line.dataset.command === found.command)) return;
  const line = make("li", `${found.missing} Run `, { class: "missing", "data-command": found.command });
  line.append(make("code", found.command));
  $("missing").append(line);
}

function verdict(found) {
  for (const sentence of found.sentences) $("sentences").append(make("p", sentence));
  for (const node of [$("against").parentElement, $("against-about")]) node.hidden = !found.rows.length;
  const lines = fill($("against"), [`on ${found.split}`, "ours", ...found.rivals.flatMap(({ words }) => [words, `ours less ${words}`])], found.rows.map((row) => [
    [row.words], numeric(row.name, row.ours, fixed(row.ours)),
    ...found.rivals.flatMap(({ name }) => {
      const cell = row.cells[name];
      if (!cell) return [["–"], ["–"]];
      const tone = cell.word === "better" ? "up" : cell.word === "worse" ? "down" : "", range = cell.interval && cell.interval[0] != null ? ` (${fixed(cell.interval[0], 3)} to ${fixed(cell.interval[1], 3)})` : "";
      return [numeric(`${row.name}/${name}`, cell.theirs, fixed(cell.theirs)), [signed(cell.difference) + range + (cell.word ? `: ${cell.word}` : ""), tone]];
    }),
  ]));
  found.rows.forEach((row, n) => lines[n].firstChild.replaceChildren(said(row.words)));
  $("against-about").textContent = "In brackets the 95 % interval over resampled requests, the same for both; a word of victory stands only where it leaves 0 out.";
}

function list(id, sentences) {
  for (const sentence of sentences) $(id).append(make("li", sentence));
}

// The colour of what is named after an objective, or of nothing in particular.
const colour = (name) => colours.get(name.split(/[/-]/)[0]) ?? "var(--brand)";

function dataset(found) {
  const counts = Object.entries(found.counts).map(([name, count]) => `${whole(count)} ${name.replaceAll("_", " ")}`);
  $("data-about").textContent = `${found.source ?? "own tables"}, in ${found.folder}, prepared ${found.created}: ${counts.join(", ")}.`;
  const keys = ["requests", "impressions", "clicks", "conversions"];
  fill($("splits"), ["split", ...keys, "click rate", "conversion rate", "from", "to"], Object.entries(found.splits).map(([name, split]) => [
    [name], ...keys.map((key) => numeric(`${name}/${key}`, split[key], whole(split[key]))),
    numeric(`${name}/click_rate`, split.click_rate, percent(split.click_rate, 2)), numeric(`${name}/conversion_rate`, split.conversion_rate, percent(split.conversion_rate, 2)),
    [split.first.slice(0, 10)], [split.last.slice(0, 10)],
  ]));
  list("data-notes", [...Object.entries(found.dropped).map(([what, count]) => `left out: ${whole(count)} ${what}`), ...found.notes]);
}

function curves(found) {
  for (const [group, named] of Object.entries(found.groups)) {
    const box = make("div", null, { class: "charts" });
    $("curve-groups").append(make("h3", GROUPS[group] ?? group), box);
    for (const [name, [steps, values]] of Object.entries(named)) {
      const [node] = chart(box, name, [{ steps, values, colour: colour(name) }], found.words[name]);
      node.dataset.last = values.at(-1);
      hover(node, `${name}: first ${short(values[0])}, last ${short(values.at(-1))}`);
    }
    inRows(box);
  }
}

function balance(found) {
  list("balance-says", found.sentences);
  if (found.pairs.length) {
    const lines = fill($("pairs"), ["pair", "mean cosine", "first third", "last third", "in conflict", "< 0 since step", "conflicting", "lowest in layer"], found.pairs.map((pair) => {
      const name = `${pair.first}-${pair.second}`, layer = pair.worst_layer;
      return [[`${pair.first} – ${pair.second}`], ...["cosine", "early", "late"].map((key) => numeric(`${name}/${key}`, pair[key], signed(pair[key]))),
        numeric(`${name}/conflicts`, pair.conflicts, percent(pair.conflicts)), [pair.since ?? "–"], [pair.conflicting ? "yes" : "no"],
        [layer === null ? "–" : `${layer} (${signed(pair.layers[layer])})`]];
    }));
    found.pairs.forEach((pair, n) => lines[n].classList.toggle("conflicting", pair.conflicting));
  }
  if (found.groups.length) {
    const lines = fill($("conflict-groups"), ["group of candidates", "pair", "candidates", "cosine", "z", "cosine in the trunk", "surely in conflict"], found.groups.map((group) => [
      [`${group.column} ${group.value}`], [`${group.first} – ${group.second}`], [whole(group.candidates)], [signed(group.cosine)], [signed(group.z)], [group.trunk_cosine === null ? "–" : signed(group.trunk_cosine)], [group.sure ? "yes" : "no"],
    ]));
    found.groups.forEach((group, n) => lines[n].classList.toggle("conflicting", group.sure));
  }
  fill($("balance-objectives"), ["objective", "weight", "norm", "share of step", "cosine of the step", "steps against it", "zero gradient", "not finite"], found.objectives.map((one) => [
    [one.name], ...["weight", "norm"].map((key) => numeric(`${one.name}/${key}`, one[key], one[key] == null ? "–" : short(one[key]))),
    numeric(`${one.name}/share`, one.share, percent(one.share)), numeric(`${one.name}/along`, one.along, signed(one.along)),
    ...["against", "zero", "nonfinite"].map((key) => numeric(`${one.name}/${key}`, one[key], percent(one[key]))),
  ]));
}

function quality(found) {
  const { counts } = found;
  $("quality-title").textContent = `Against every baseline, on ${found.split}`;
  $("counts").textContent = `${whole(counts.rows)} impressions in ${whole(counts.requests)} requests of ${whole(counts.users)} shoppers, ${whole(counts.clicks)} clicks, ${whole(counts.clicked_conversions)} of them with conversion; baselines from ${whole(counts.train_rows)} training impressions.`;
  const ndcg = found.cutoff === null ? [] : [{ name: `ndcg@${found.cutoff}`, words: `NDCG@${found.cutoff}` }];
  for (const target of found.targets) {
    const rows = [["ours", target.ours], ...Object.entries(target.baselines)];
    const columns = [...found.columns, ...ndcg].filter((column) => rows.some(([, row]) => row[column.name] != null));
    const best = new Map(columns.map(({ name }) => {
      const values = rows.map(([, row]) => row[name]).filter((value) => value != null);
      return [name, ["predicted", "observed"].includes(name) || values.length < 2 ? null : found.lower.includes(name) ? Math.min(...values) : Math.max(...values)];
    }));
    const box = make("div", null, { class: "wide" }), table = make("table", null, { "data-target": target.name });
    box.append(table);
    $("targets").append(make("h3", target.words), box);
    const lines = fill(table, ["", ...columns.map((column) => said(column.words))], rows.map(([who, row]) => [[who], ...columns.map(({ name }) => {
      const value = row[name], isBest = value != null && value === best.get(name);
      return numeric(`${who}/${name}`, value, fixed(value) + (isBest ? " ★" : ""), isBest ? "best" : "");
    })]));
    lines[0].classList.add("ours");
  }
  list("verdict", found.verdict);
}

function recall(found) {
  $("recall-about").textContent = `What ${whole(found.shoppers)} shoppers of ${found.split} took, out of ${whole(found.items)} items; scale ${short(found.weights.scale)}, prior ${short(found.weights.prior)}, repeat ${short(found.weights.repeat)}.`;
  const best = new Map(found.columns.map(({ name }) => [name, Math.max(...found.rows.map((row) => row.cells[name].value ?? 0))]));
  const lines = fill($("recalls"), ["", ...found.columns.map((column) => column.words)], found.rows.map((row) => [[row.name], ...found.columns.map(({ name }) => {
    const { value, interval } = row.cells[name], isBest = value != null && value === best.get(name);
    const text = `${fixed(value, 3)}${isBest ? " ★" : ""} (${fixed(interval[0], 3)} to ${fixed(interval[1], 3)})`;
    return numeric(`${row.name}/${name}`, value, text, isBest ? "best" : "");
  })]));
  lines[0].classList.add("ours");
  list("recall-verdict", found.verdict);
}

function calibration(found) {
  const held = found.targets.filter((target) => !("missing" in target.calibration));
  if (!held.length) return found.targets.length && part("calibration", found.targets[0].calibration);
  for (const target of held) if (target.calibration.bins.length) reliability($("diagrams"), target, target.calibration.bins);
  inRows($("diagrams"));
}

// Mean prediction across, observed rate up; both logarithmic where the predictions span more than a factor of twenty.
function reliability(parent, target, bins) {
  const svg = draw(parent, "svg", { "data-calibration": target.name, role: "img", "aria-label": `Calibration of ${target.words}` });
  const positive = bins.flatMap((bin) => [bin.predicted, bin.observed]).filter((value) => value > 0);
  const low = Math.min(...positive), high = Math.max(...positive, ...bins.map((bin) => bin.interval[1]));
  const smallest = Math.min(...bins.map((bin) => bin.predicted));
  const log = smallest > 0 && Math.max(...bins.map((bin) => bin.predicted)) > 20 * smallest;
  const to = (value) => log ? Math.log10(Math.max(value, low)) : value;
  const ends = log ? [to(low), to(high)] : [0, high];
  const label = log ? (value) => String(+(10 ** value).toPrecision(2)) : short;
  const [x, y] = frame(svg, 400, 330, ends, ends, { left: 58, right: 12, top: 28, bottom: 42 }, label);
  draw(svg, "text", { class: "title", x: 58, y: 17 }, target.words);
  draw(svg, "text", { x: 224, y: 326, "text-anchor": "middle" }, `mean prediction${log ? " (logarithmic)" : ""}`);
  draw(svg, "line", { class: "diagonal", x1: x(ends[0]), y1: y(ends[0]), x2: x(ends[1]), y2: y(ends[1]) });
  for (const bin of bins) {
    const at = x(to(bin.predicted));
    draw(svg, "line", { class: "interval", x1: at, x2: at, y1: y(to(bin.interval[0])), y2: y(to(bin.interval[1])) });
    const dot = draw(svg, "circle", { class: log && !bin.observed ? "dot none" : "dot", cx: at, cy: y(to(bin.observed)), r: 4.5, style: `fill:${colour(target.name === "ctcvr" ? "cvr" : target.name)}` });
    Object.assign(dot.dataset, { predicted: bin.predicted, observed: bin.observed, rows: bin.rows });
    hover(dot, `${whole(bin.rows)} impressions\npredicted ${short(bin.predicted)}\nobserved ${short(bin.observed)} (${short(bin.interval[0])} to ${short(bin.interval[1])})`);
  }
}

function points(found) {
  const names = [...new Set(found.points.flatMap((point) => Object.keys(point.exposure?.groups ?? {})))];
  const at = found.cutoff === null ? "" : `@${found.cutoff}`;
  const keys = [["ndcg", "NDCG"], ["ild", "ILD"], ["coverage", "coverage"]].filter(([key]) => found.points.some((point) => point[key] != null));
  const exposed = names.length ? [`exposure${at} min/max`, ...names.map((name) => `exposure of ${name}`)] : [];
  fill($("points"), ["operating point", ...keys.map(([, word]) => said(word + at)), ...exposed], found.points.map((point) => [
    [point.name], ...keys.map(([key]) => numeric(`${point.name}/${key}`, point[key], fixed(point[key]))),
    ...(names.length ? [numeric(`${point.name}/min_max`, point.exposure?.min_max, fixed(point.exposure?.min_max)), ...names.map((name) => numeric(`${point.name}/group/${name}`, point.exposure?.groups[name], fixed(point.exposure?.groups[name], 3)))] : []),
  ]));
}

function userGroups(found) {
  const metrics = [["auc", "AUC"], ["log_loss", "log loss"], ["ne", "NE"]];
  const attributes = Object.entries(found.user_groups);
  if (!attributes.length) $("user-groups").append(make("p", "The run keeps no user attributes: name some in data.user_groups."));
  for (const [attribute, { groups, gap, left_out }] of attributes) {
    const box = make("div", null, { class: "wide" }), table = make("table");
    box.append(table);
    $("user-groups").append(make("h3", `pCTR by ${attribute}`), box);
    const cells = (name, row) => metrics.map(([key]) => numeric(`${attribute}/${name}/${key}`, row[key], fixed(row[key])));
    fill(table, [attribute, "impressions", ...metrics.map(([, word]) => word)], [
      ...Object.entries(groups).map(([name, row]) => [[name], numeric(`${attribute}/${name}/rows`, row.rows, whole(row.rows)), ...cells(name, row)]),
      [["largest gap"], [""], ...cells("gap", gap)],
    ]);
    if (left_out.length) $("user-groups").append(make("p", `Too small to be judged: ${left_out.join(", ")}.`));
  }
}

function front(found) {
  const words = new Map(found.names.map(({ name, words }) => [name, words]));
  const selects = ["across", "up"].map((text, n) => {
    const label = make("label", `${text} `), select = make("select", null, { id: `front-${n ? "y" : "x"}` });
    for (const [name, said] of words) select.append(make("option", said, { value: name }));
    select.value = found.axes[n ? 0 : 1];
    label.append(select);
    $("axes").append(label, " ");
    select.addEventListener("change", () => trades(found, words, ...selects.map((one) => one.value)));
    return select;
  });
  trades(found, words, ...selects.map((one) => one.value));
  const on = found.points.filter((point) => point.on_front).length;
  $("front-about").textContent = `${found.points.length} trade-offs on ${whole(found.requests)} validation requests; ${on} are on the front of ${found.axes.map((axis) => words.get(axis)).join(", ")}, others are grey; hypervolume ${fixed(found.hypervolume.normalised, 3)} of its box. Ringed: the choices.`;
  const said = (value) => value ? `${fixed(value.value, 3)} [${fixed(value.interval?.[0], 3)}, ${fixed(value.interval?.[1], 3)}]` : "–";
  $("choices").parentElement.hidden = !found.choices.length;
  fill($("choices"), ["choice", "weights", ...found.axes.flatMap((axis) => [`${words.get(axis)} on valid`, "on test"])], found.choices.map((choice) => [
    [`by ${choice.way}${choice.counts ? " (counts)" : ""}`], [choice.words, "words"],
    ...found.axes.flatMap((axis) => [numeric(`${choice.way}/${axis}`, choice.valid[axis]?.value, said(choice.valid[axis])), numeric(`${choice.way}/${axis}/test`, choice.test?.[axis]?.value, said(choice.test?.[axis]))]),
  ]));
}

function trades(found, words, nameX, nameY) {
  const svg = $("scatter");
  const held = found.points.map((point, number) => ({ ...point, number })).filter((point) => point.metrics[nameX] != null && point.metrics[nameY] != null);
  if (!held.length) return empty(svg, "no trade-off has both metrics");
  const width = Math.max(380, Math.min(1100, svg.parentElement.clientWidth)), height = width < 700 ? 320 : 420;
  const [x, y] = frame(svg, width, height, held.map((point) => point.metrics[nameX]), held.map((point) => point.metrics[nameY]), { left: 62, right: 16, top: 14, bottom: 46 });
  draw(svg, "text", { class: "title", x: width / 2, y: height - 6, "text-anchor": "middle" }, words.get(nameX));
  draw(svg, "text", { class: "title", transform: `translate(14 ${height / 2 - 10}) rotate(-90)`, "text-anchor": "middle" }, words.get(nameY));
  const chosen = new Map(found.choices.map((choice) => [choice.point, choice.way]));
  for (const point of held.sort((a, b) => a.on_front - b.on_front)) {
    const ringed = chosen.has(point.number);
    const dot = draw(svg, "circle", { class: `dot${point.on_front ? "" : " dominated"}${ringed ? " chosen" : ""}`, cx: x(point.metrics[nameX]), cy: y(point.metrics[nameY]), r: ringed ? 8 : point.on_front ? 5 : 3.5, style: `fill:var(--${ringed ? `choice-${chosen.get(point.number)}` : "front"})` });
    Object.assign(dot.dataset, { x: point.metrics[nameX], y: point.metrics[nameY] });
    hover(dot, [point.words, ringed && `chosen by ${chosen.get(point.number)}`, `${words.get(nameX)} ${short(point.metrics[nameX])}`, `${words.get(nameY)} ${short(point.metrics[nameY])}`].filter(Boolean).join("\n"));
  }
}

function slates(found) {
  const select = make("select", null, { id: "omega" }), label = make("label", "after: ");
  const others = found.points.slice(1);
  for (const name of others) select.append(make("option", name + (name === found.chosen ? " (chosen)" : ""), { value: name }));
  if (others.includes(found.chosen)) select.value = found.chosen;
  else if (others.length) select.value = others.at(-1);
  label.append(select);
  if (others.length) $("slate-point").append(label);
  select.addEventListener("change", () => examples(found, select.value));
  examples(found, select.value);
  $("slates-about").textContent = `The best ${found.top} of each request by utility. ▲ and ▼ tell how many places a candidate has moved against pure relevance; ● was clicked, ◆ was clicked and bought.`;
}

function examples(found, after) {
  const box = $("examples"), [plain] = found.points;
  box.replaceChildren();
  for (const example of found.examples) {
    const entry = make("div", null, { class: "example", "data-request": example.request_id }), pair = make("div", null, { class: "pair" });
    entry.append(make("h3", `Request ${example.request_id}, ${example.candidates.length} candidates`), make("p", example.prefix), pair);
    for (const name of after && after !== plain ? [plain, after] : [plain]) pair.append(slate(example, name, name === plain ? `before: ω = {}, ${plain}` : `after: ${name}`, found.attributes));
    box.append(entry);
  }
}

function slate(example, name, title, attributes) {
  const box = make("div", null, { "data-slate": name }), table = make("table"), { rows, out } = example.slates[name];
  const line = ({ candidate, rank, before, utility }) => {
    const one = example.candidates[candidate], moved = before - rank;
    const mark = one.click ? (one.conversion ? " ◆" : " ●") : "";
    return [[rank], [one.title + mark, "", { "data-about": attributes.map((key) => one.attributes[key]).join(", ") }],
      [fixed(one.pctr, 3)], ...(one.pcvr == null ? [] : [[fixed(one.pcvr, 3)]]), [fixed(utility, 2), "", { "data-value": utility }],
      [moved ? `${moved > 0 ? "▲" : "▼"} ${Math.abs(moved)}` : "=", moved > 0 ? "up" : moved < 0 ? "down" : ""]];
  };
  fill(table, ["", "item", "pCTR", ...(example.candidates[0].pcvr == null ? [] : ["pCVR"]), "utility", "moved"], rows.map(line));
  for (const cell of table.querySelectorAll("[data-about]")) cell.append(make("small", cell.dataset.about));
  box.append(make("h3", title), table);
  if (out.length) box.append(make("p", `moved out: ${out.map((row) => `${example.candidates[row.candidate].title} (${row.before} → ${row.rank})`).join("; ")}`, { class: "hint" }));
  return box;
}
