"use strict";
// The page's behaviour: colours of light and dark, figures drawn when they come near the screen, filters, and the runs of a cell or curve.

const root = document.documentElement;
const figures = JSON.parse(document.getElementById("figures").textContent);
const plots = [...document.querySelectorAll(".plot")];
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#999999"];

const runData = (async () => {
  const bytes = Uint8Array.from(atob(document.getElementById("run-data").textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
})();

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
  made.hoverlabel = { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink"), size: 12 }, align: "left", namelength: 0 };
  made.dragmode = heatmap || matchMedia("(pointer: coarse)").matches ? false : "zoom"; // a finger scrolls the page
  for (const key of Object.keys(layout).filter((name) => /^[xy]axis/.test(name))) made[key] = axis(layout[key]);
  return made;
}

function themedTrace(trace, method) {
  const made = { ...trace, visible: !method || !trace.meta || trace.meta === method };
  if (trace.type === "heatmap") {
    made.colorscale = [[0, colour("best")], [0.5, colour("middle")], [1, colour("far")]];
    made.textfont = { color: colour("ink") }; // readable on each of them, which Plotly's own choice of grey or white is not
  }
  return made;
}

// ---- Figures

function draw(plot) {
  const { data, layout } = figures[plot.dataset.figure];
  const heatmap = data.some((trace) => trace.type === "heatmap");
  const method = document.getElementById("method").value;
  Plotly.react(plot, data.map((trace) => themedTrace(trace, method)), themedLayout(layout, heatmap), { displayModeBar: false, responsive: true });
  if (!plot.drawn) plot.on("plotly_click", (event) => openRuns(event.points.flatMap((point) => String(point.customdata ?? "").split(" "))));
  plot.drawn = true;
}

const nearScreen = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting)) {
    nearScreen.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "500px" });

// ---- Filters

function filter() {
  const task = document.getElementById("task").value;
  const method = document.getElementById("method").value;
  const has = (element, key, value) => !value || element.dataset[key].split(" ").includes(value);
  const artefacts = [...document.querySelectorAll(".artefact")];
  for (const section of artefacts) {
    section.hidden = !has(section, "tasks", task) || !has(section, "methods", method);
    document.querySelector(`[data-entry="${section.id}"]`).hidden = section.hidden;
    for (const panel of section.querySelectorAll(".panel")) panel.hidden = !has(panel, "methods", method);
    for (const group of section.querySelectorAll(".group")) group.hidden = ![...group.querySelectorAll(".panel")].some((panel) => !panel.hidden);
    for (const entry of section.querySelectorAll(".legend li")) entry.hidden = Boolean(method && entry.dataset.method && entry.dataset.method !== method);
  }
  for (const row of document.querySelectorAll(".claims tbody tr")) {
    row.hidden = document.getElementById(row.dataset.artefact).hidden || !has(row, "methods", method);
  }
  document.getElementById("shown").value = `${artefacts.filter((section) => !section.hidden).length} of ${artefacts.length} artefacts`;
  plots.filter((plot) => plot.drawn && plot.offsetParent).forEach(draw);
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
  const all = await runData;
  const runs = [...new Set(ids)].filter((id) => id in all.runs).map((id) => [id, all.runs[id]]);
  if (!runs.length) return;
  const first = runs[0][1];
  document.getElementById("runs-title").textContent = `${first.method} on ${first.task}: ${runs.length} run${runs.length > 1 ? "s" : ""}`;
  document.getElementById("runs-table").replaceChildren(runsTable(runs, false));
  document.getElementById("config").textContent = Object.entries(first.config).map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join("\n");
  document.getElementById("runs").showModal();
  showMatrices(runs.filter(([, run]) => run.dynamics), all.matrices, runs[0][0]);
}

function showMatrices(runs, lists, id) {
  const select = document.getElementById("matrix");
  document.getElementById("matrix-label").hidden = !runs.length;
  document.getElementById("dynamics").hidden = !runs.length;
  const nothing = "No run of these has R, κ or λ on record.";
  document.getElementById("dynamics-note").textContent = (runs.length ? "Dashed: κ. " : `${nothing} `) + `In a terminal: python scripts/show.py ${id}`;
  if (!runs.length) return;
  const names = lists[runs[0][1].dynamics.list];
  select.replaceChildren(...names.map((name) => new Option(name.replace(/\.weight$/, ""), name)));
  const show = () => drawDynamics(runs, lists, select.value);
  select.onchange = show;
  show();
}

function drawDynamics(runs, lists, matrix) {
  const data = [];
  runs.forEach(([id, run], number) => {
    const place = lists[run.dynamics.list].indexOf(matrix);
    if (place < 0) return;
    const line = (quantity, yaxis, dash) => {
      if (!run.dynamics[quantity]) return;
      const hovertemplate = `${quantity} %{y:.4g} at step %{x}<br>seed ${run.seed}, ${id}<extra></extra>`;
      const look = { color: COLOURS[number % COLOURS.length], width: 1.6, dash };
      data.push({ x: run.dynamics.steps, y: run.dynamics[quantity][place], yaxis, mode: "lines", line: look, hovertemplate });
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
  Plotly.react("dynamics", data, themedLayout(layout, false), { displayModeBar: false, responsive: true });
}

for (const details of document.querySelectorAll("details.runs")) {
  details.addEventListener("toggle", async () => {
    if (details.open && !details.querySelector("table")) {
      const { runs } = await runData;
      details.querySelector(".scroll").replaceChildren(runsTable(details.dataset.runs.split(" ").map((id) => [id, runs[id]]), true));
    }
  });
}

// ---- Start

const dark = matchMedia("(prefers-color-scheme: dark)");
setTheme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
document.getElementById("theme").onclick = () => setTheme(root.dataset.theme === "dark" ? "light" : "dark");
document.getElementById("task").onchange = filter;
document.getElementById("method").onchange = filter;
document.getElementById("runs").addEventListener("click", (event) => { if (event.target.id === "runs") event.target.close(); });
if (matchMedia("(max-width: 1000px)").matches) document.querySelector("nav details").open = false;
plots.forEach((plot) => nearScreen.observe(plot));

let before;
addEventListener("beforeprint", () => {
  before = root.dataset.theme;
  document.querySelectorAll("section details:not(.runs)").forEach((details) => { details.open = true; });
  setTheme("light");
  plots.forEach(draw);
});
addEventListener("afterprint", () => setTheme(before));
