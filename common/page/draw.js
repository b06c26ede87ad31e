"use strict";
// What the pages share: elements, a frame with ticks, a chart of lines, a tip under the pointer.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const make = (tag, text, attributes = {}) => {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};
const draw = (parent, tag, attributes, text) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
};
const short = (value) => Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(+value.toPrecision(4));
const cut = (text, most) => text.length > most ? `${text.slice(0, most - 1)}…` : text;

// The one text of explanations: above dialogs too, which is why it is a popover.
function showTip(text, x, y) {
  const tip = $("tip");
  tip.textContent = text;
  tip.hidden = false;
  if (tip.popover && !tip.matches(":popover-open")) tip.showPopover();
  tip.style.left = `${Math.max(8, Math.min(x, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(8, y + tip.offsetHeight + 8 > innerHeight ? y - tip.offsetHeight - 34 : y)}px`;
}

function hideTip() {
  const tip = $("tip");
  if (tip.popover && tip.matches(":popover-open")) tip.hidePopover();
  tip.hidden = true;
}
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
addEventListener("scroll", hideTip, { passive: true, capture: true });

// Tells a text beside the pointer, or at the finger until something else is touched.
function hover(node, text) {
  node.addEventListener("pointermove", (event) => showTip(text, event.clientX + 14, event.clientY + 14));
  node.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hideTip(); });
  node.addEventListener("click", (event) => { showTip(text, event.clientX + 14, event.clientY + 14); event.stopPropagation(); });
}
addEventListener("click", hideTip);

// A name with its unit that explains itself: under the pointer, with the keyboard's focus, and on a tap.
function term(text, unit, about) {
  const button = make("button", text, { type: "button", class: "term" }), said = make("span", about, { hidden: "", id: `said-${term.count = (term.count ?? 0) + 1}` });
  if (unit) button.append(" ", make("span", `(${unit})`, { class: "unit" }));
  button.setAttribute("aria-describedby", said.id);
  const show = () => { const box = button.getBoundingClientRect(); showTip(about, box.left, box.bottom + 6); };
  button.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") show(); });
  button.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hideTip(); });
  button.addEventListener("focus", () => { if (button.matches(":focus-visible")) show(); });
  button.addEventListener("blur", hideTip);
  button.addEventListener("click", (event) => { event.stopPropagation(); show(); });
  const both = document.createDocumentFragment();
  both.append(button, said);
  return both;
}

// The smallest and largest value, but no farther out than one span of the middle nine tenths beyond them (common/robust_range.py).
function robustRange(values) {
  const sorted = [...values].sort((a, b) => a - b), [low, high] = [sorted[0], sorted.at(-1)];
  if (sorted.length < 8) return [low, high];
  const quantile = (q) => { const at = q * (sorted.length - 1), n = Math.floor(at); return sorted[n] + (at - n) * ((sorted[n + 1] ?? sorted[n]) - sorted[n]); };
  const [first, last] = [quantile(0.05), quantile(0.95)], span = last - first;
  return [Math.max(low, first - span), Math.min(high, last + span)];
}

// A frame with ticks, said by `label`; gives the two scales. What lies outside of their range is placed at the edge.
function frame(svg, width, height, xs, ys, margin, label = short) {
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const scale = (values, from, to) => {
    let [low, high] = robustRange(values);
    if (!(low < high)) { const room = Math.abs(low) * 0.01 || 1; low -= room; high += room; }
    const room = (high - low) * 0.05;
    const [start, end] = [low - room, high + room];
    const place = (value) => from + (Math.min(Math.max(value, start), end) - start) / (end - start) * (to - from);
    place.outside = (value) => value < start || value > end;
    const step = 10 ** Math.floor(Math.log10((end - start) / 3));
    const size = [1, 2, 5, 10].map((f) => f * step).find((s) => (end - start) / s <= 6);
    place.ticks = [];
    for (let tick = Math.ceil(start / size) * size; tick <= end; tick += size) place.ticks.push(Math.abs(tick) < size / 1e6 ? 0 : tick);
    return place;
  };
  const x = scale(xs, margin.left, width - margin.right), y = scale(ys, height - margin.bottom, margin.top);
  for (const tick of x.ticks) {
    draw(svg, "line", { class: "grid", x1: x(tick), x2: x(tick), y1: margin.top, y2: height - margin.bottom });
    draw(svg, "text", { x: x(tick), y: height - margin.bottom + 15, "text-anchor": "middle" }, label(tick));
  }
  for (const tick of y.ticks) {
    draw(svg, "line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: y(tick), y2: y(tick) });
    draw(svg, "text", { x: margin.left - 6, y: y(tick) + 4, "text-anchor": "end" }, label(tick));
  }
  return [x, y];
}

function empty(svg, text) {
  svg.replaceChildren();
  svg.setAttribute("viewBox", "0 0 720 120");
  draw(svg, "text", { class: "title", x: 360, y: 60, "text-anchor": "middle" }, text);
}

// As many charts in a row as leave none alone in the last one.
function inRows(box) {
  const count = box.childElementCount;
  box.style.setProperty("--columns", count % 3 === 1 ? Math.min(count, 2) : Math.min(count, 3));
}

// A triangle at the edge that points to where a value lies outside.
function outlier(svg, x, y, up, colour, text) {
  const node = draw(svg, "path", { class: "outside", d: `M${x - 4} ${up ? y + 6 : y - 6}h8l-4 ${up ? -7 : 7}z`, style: `fill:${colour}` });
  hover(node, text);
  return node;
}

// One chart of lines over the steps; series are {steps, values, colour}. Gives their nodes: a path, or a dot for one point.
function chart(parent, name, series, title = name) {
  const svg = draw(parent, "svg", { "data-curve": name, role: "img", "aria-label": title });
  const [x, y] = frame(svg, 400, 230, series.flatMap((one) => one.steps), series.flatMap((one) => one.values), { left: 52, right: 10, top: 28, bottom: 24 });
  draw(svg, "text", { class: "title", x: 52, y: 17 }, title);
  return series.map(({ steps, values, colour }) => {
    const d = steps.map((step, n) => `${n ? "L" : "M"}${x(step).toFixed(1)} ${y(values[n]).toFixed(1)}`).join("");
    const node = steps.length > 1
      ? draw(svg, "path", { class: "line", d, style: `stroke:${colour}` })
      : draw(svg, "circle", { class: "dot", cx: x(steps[0]), cy: y(values[0]), r: 3, style: `fill:${colour}` });
    steps.forEach((step, n) => { if (y.outside(values[n])) outlier(svg, x(step), y(values[n]), y(values[n]) < 100, colour, `step ${step}: ${short(values[n])}, outside of the picture`); });
    return node;
  });
}

// Fills a table with heads and rows of cells [text, class, attributes]; gives the rows' nodes.
function fill(node, heads, rows) {
  const head = make("thead"), body = make("tbody"), line = make("tr");
  for (const text of heads) {
    const cell = make("th", typeof text === "string" ? text : null, { scope: "col" });
    if (typeof text !== "string") cell.append(text);
    line.append(cell);
  }
  head.append(line);
  const lines = rows.map((cells) => {
    const row = make("tr");
    for (const [text, name, attributes] of cells) {
      const cell = make("td", text, attributes);
      if (name) cell.className = name;
      row.append(cell);
    }
    body.append(row);
    return row;
  });
  node.replaceChildren(head, body);
  return lines;
}

// Names with their colours.
function legend(node, colours, title) {
  for (const [name, colour] of colours) {
    const entry = make("span", name, title ? { title } : {});
    entry.prepend(make("i", null, { style: `background:${colour}` }));
    node.append(entry);
  }
}

// What scrolls can be reached with the keyboard, under the name of its section.
function reachable() {
  for (const box of document.querySelectorAll(".wide, pre")) {
    if (box.scrollWidth <= box.clientWidth && box.scrollHeight <= box.clientHeight) continue;
    const title = box.closest("section, .card")?.querySelector("h2, h3, summary")?.textContent ?? "Table";
    const same = [...document.querySelectorAll(".wide, pre")].filter((other) => other.closest("section, .card") === box.closest("section, .card"));
    const name = same.length > 1 ? `${title}, part ${same.indexOf(box) + 1}` : title;
    for (const [key, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", name]]) box.setAttribute(key, value);
  }
}
addEventListener("resize", reachable);
addEventListener("toggle", reachable, true);
