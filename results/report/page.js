"use strict";
// The page's behaviour: colours of light and dark, figures drawn when they come near the screen, their hover texts, the filter, and the runs of a cell or curve.

const root = document.documentElement;
const plots = [...document.querySelectorAll(".plot")];
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#999999"];

// ---- Data, unpacked when they are first needed

async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

function once(make) {
  let made;
  return () => (made ??= make());
}

const tables = once(async () => JSON.parse(await unpacked("tables")));
const runData = once(async () => JSON.parse(await unpacked("run-data")));

const drawing = once(async () => {
  const script = document.createElement("script");
  script.src = URL.createObjectURL(new Blob([await unpacked("plotly")], { type: "text/javascript" }));
  await new Promise((done) => { script.onload = done; document.head.append(script); });
  return JSON.parse(await unpacked("figures"));
});

// The committed figures, where no interactive ones can be drawn
const images = once(async () => {
  const texts = JSON.parse(await unpacked("images"));
  for (const image of document.querySelectorAll("img[data-image]")) {
    image.src = URL.createObjectURL(new Blob([texts[image.dataset.image]], { type: "image/svg+xml" }));
  }
});

// ---- Colours

const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

function setTheme(theme) {
  root.dataset.theme = theme;
  plots.filter((plot) => plot.drawn).forEach(draw);
}

function themedLayout(layout, heatmap) {
  const axis = (own) => ({ gridcolor: colour("line"), linecolor: colour("line"), zeroline: false, showgrid: !heatmap, fixedrange: heatmap, ...own });
  const made = { ...layout, autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
  made.font = { family: "inherit", size: 12, color: colour("ink") };
  made.dragmode = heatmap || matchMedia("(pointer: coarse)").matches ? false : "zoom"; // a finger scrolls the page
  for (const key of Object.keys(layout).filter((name) => /^[xy]axis/.test(name))) made[key] = axis(layout[key]);
  return made;
}

function themedTrace(trace) {
  const made = { ...trace, hoverinfo: "none", hovertemplate: undefined }; // Plotly would cut a text that is wider than its figure
  if (trace.type === "heatmap") {
    made.colorscale = [[0, colour("worse")], [0.5, colour("same")], [1, colour("better")]];
  }
  return made;
}

// ---- Figures

async function draw(plot) {
  const { data, layout } = (await drawing())[plot.dataset.figure];
  const heatmap = data.some((trace) => trace.type === "heatmap");
  await show(plot, data, themedLayout(layout, heatmap));
  if (!plot.drawn) plot.on("plotly_click", (event) => openRuns(event.points.flatMap((point) => String(point.customdata ?? "").split(" "))));
  plot.drawn = true;
}

async function show(plot, data, layout) {
  await Plotly.react(plot, data.map(themedTrace), layout, { displayModeBar: false, responsive: true });
  plot.removeAllListeners("plotly_hover");
  plot.removeAllListeners("plotly_unhover");
  plot.on("plotly_hover", ({ points: [point], event }) => showTip(hoverText(data[point.curveNumber], point), event));
  plot.on("plotly_unhover", hideTip);
}

// ---- Hover texts, which never leave the window

// A trace's hovertemplate is made by results/, from escaped texts. %{name:.4g} stands for a value of the point.
function hoverText(trace, point) {
  const at = (values) => [].concat(point.pointNumber).reduce((found, place) => found?.[place], values);
  const value = { x: point.x, y: point.y, customdata: point.customdata, hovertext: at(trace.hovertext) };
  return trace.hovertemplate.replace("<extra></extra>", "").replace(/%\{(\w+)(?::([^}]*))?\}/g, (_, name, format) => {
    const [, digits, kind] = /^\.(\d+)([fg])$/.exec(format ?? "") ?? [];
    if (kind === "f") return Number(value[name]).toFixed(digits);
    if (kind === "g") return String(Number(Number(value[name]).toPrecision(digits)));
    return name === "hovertext" ? value[name] : element("span", value[name]).innerHTML; // escapes what is no markup
  });
}

function showTip(html, { clientX, clientY }) {
  const tip = document.getElementById("tip");
  tip.innerHTML = html;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const beside = clientX + 14 + width < innerWidth ? clientX + 14 : clientX - 14 - width;
  const below = clientY + 14 + height < innerHeight ? clientY + 14 : clientY - 14 - height;
  const within = (place, size, room) => Math.max(4, Math.min(place, room - size - 4));
  tip.style.transform = `translate(${within(beside, width, innerWidth)}px, ${within(below, height, innerHeight)}px)`;
}

function hideTip() {
  document.getElementById("tip").hidden = true;
}

// ---- Cards

function filter() {
  const wanted = document.getElementById("filter").value.toLowerCase().split(/[\s,]+/).filter(Boolean);
  const cards = [...document.querySelectorAll(".card")];
  for (const card of cards) card.hidden = !wanted.every((word) => card.dataset.words.includes(word));
  document.getElementById("shown").value = `${cards.filter((card) => !card.hidden).length} of ${cards.length}`;
}

function openLinked() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let details = target?.closest("details"); details; details = details.parentElement.closest("details")) details.open = true;
  target?.scrollIntoView();
}

// ---- Runs

function element(name, text, parent) {
  const made = document.createElement(name);
  made.textContent = text ?? "";
  parent?.append(made);
  return made;
}

function runsTable(runs, withButtons) {
  const table = document.createElement("table");
  table.className = "data";
  const metrics = [...new Set(runs.flatMap(([, run]) => Object.keys(run.metrics)))].slice(0, 4);
  const differing = Object.keys(runs[0][1].config).filter((key) => key !== "seed" && new Set(runs.map(([, run]) => JSON.stringify(run.config[key]))).size > 1);
  const head = element("tr", "", table.createTHead());
  const columns = ["seed", ...differing, ...metrics, "status", "run", "commit", "kernel", "seconds", "machine"];
  for (const name of [...(withButtons ? [""] : []), ...columns]) element("th", name, head).scope = "col";
  const body = table.createTBody();
  for (const [id, run] of runs) {
    const row = body.insertRow();
    if (withButtons) {
      const button = element("button", "show", row.insertCell());
      button.type = "button";
      button.onclick = () => openRuns([id]);
    }
    const cells = [run.seed, ...differing.map((key) => run.config[key]), ...metrics.map((name) => run.metrics[name])];
    const status = run.reason ? `${run.status}: ${run.reason}` : run.status;
    for (const text of [...cells, status, id, run.commit, run.kernel ?? "", run.seconds, run.machine]) element("td", text, row);
  }
  return table;
}

async function openRuns(ids) {
  await drawing();
  hideTip();
  const all = await runData();
  const runs = [...new Set(ids)].filter((id) => id in all).map((id) => [id, all[id]]);
  if (!runs.length) return;
  const [id, first] = runs[0];
  document.getElementById("runs-title").textContent = `${first.method} on ${first.task}: ${runs.length} run${runs.length > 1 ? "s" : ""}`;
  document.getElementById("runs-table").replaceChildren(runsTable(runs, false));
  document.getElementById("config").textContent = Object.entries(first.config).map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join("\n");
  document.getElementById("runs").showModal();
  const logged = runs.filter(([, run]) => run.dynamics);
  const said = logged.length ? "R and dashed κ are medians over matrices, λ is the largest." : "No run of these has R, κ or λ on record.";
  document.getElementById("dynamics-note").textContent = `${said} For each matrix: python scripts/show.py ${id}`;
  document.getElementById("dynamics").hidden = !logged.length;
  if (logged.length) drawDynamics(logged);
}

function drawDynamics(runs) {
  const data = [];
  runs.forEach(([id, run], number) => {
    const line = (quantity, yaxis, dash) => {
      if (!run.dynamics[quantity]) return;
      const hovertemplate = `${quantity} %{y:.4g} at step %{x}<br>seed ${run.seed}, ${id}<extra></extra>`;
      const look = { color: COLOURS[number % COLOURS.length], width: 1.6, dash };
      data.push({ x: run.dynamics.steps, y: run.dynamics[quantity], yaxis, mode: "lines", line: look, hovertemplate });
    };
    line("R", "y", "solid");
    line("kappa", "y", "dash");
    line("lambda", "y2", "solid");
  });
  const both = data.some((trace) => trace.yaxis === "y2");
  const layout = {
    showlegend: false, height: both ? 420 : 280, margin: { l: 8, r: 8, t: 8, b: 8 }, xaxis: { title: { text: "step" }, automargin: true, anchor: both ? "y2" : "y" },
    yaxis: { title: { text: "R" }, automargin: true, exponentformat: "e", domain: both ? [0.42, 1] : [0, 1] },
  };
  if (both) layout.yaxis2 = { title: { text: "λ" }, automargin: true, exponentformat: "e", domain: [0, 0.34] };
  show(document.getElementById("dynamics"), data, themedLayout(layout, false));
}

// ---- Tables, filled when they are opened

function fill(details, content) {
  details.addEventListener("toggle", async () => {
    const place = details.querySelector(".scroll");
    if (details.open && !place.childElementCount) content(place);
  });
}

for (const details of document.querySelectorAll("details[data-table]")) {
  fill(details, async (place) => { place.innerHTML = (await tables())[details.dataset.table]; });
}
for (const details of document.querySelectorAll("details.runs")) {
  fill(details, async (place) => {
    const all = await runData();
    place.replaceChildren(runsTable(details.dataset.runs.split(" ").map((id) => [id, all[id]]), true));
  });
}

// ---- Start

const nearScreen = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting)) {
    nearScreen.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "500px" });

const dark = matchMedia("(prefers-color-scheme: dark)");
setTheme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
document.getElementById("theme").onclick = () => setTheme(root.dataset.theme === "dark" ? "light" : "dark");
document.getElementById("filter").oninput = filter;
document.querySelector(".filter").onsubmit = (event) => event.preventDefault();
document.getElementById("runs").addEventListener("click", (event) => { if (event.target.id === "runs") event.target.close(); });
addEventListener("scroll", hideTip, { passive: true });
addEventListener("hashchange", openLinked);
openLinked();
plots.forEach((plot) => nearScreen.observe(plot));
for (const make of [images, drawing]) addEventListener("load", () => (window.requestIdleCallback ?? setTimeout)(make)); // printing can't wait for them

let before;
addEventListener("beforeprint", () => {
  before = root.dataset.theme;
  document.querySelectorAll(".card").forEach((card) => { card.open = true; });
  setTheme("light");
  plots.filter((plot) => plot.checkVisibility()).forEach(draw);
});
addEventListener("afterprint", () => setTheme(before));
