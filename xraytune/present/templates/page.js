"use strict";
(() => {
  const root = document.documentElement;
  const read = (id) => document.getElementById(id).textContent;
  const charts = new Map(JSON.parse(read("charts")).map((chart) => [chart.id, chart]));
  const drawn = new Set();
  const system = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // Plotly starts after the text of the page is shown; the browser decodes and compiles it beside the page.
  async function startPlotly() {
    await new Promise((shown) => requestAnimationFrame(() => setTimeout(shown)));
    const packed = await fetch(`data:application/gzip;base64,${read("plotly")}`);
    const unpacked = new Response(packed.body.pipeThrough(new DecompressionStream("gzip")), { headers: { "content-type": "text/javascript" } });
    const script = document.createElement("script");
    script.src = URL.createObjectURL(await unpacked.blob());
    await new Promise((loaded) => { script.onload = loaded; document.head.append(script); });
  }

  function themed(layout) {
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"), tickcolor: colour("--line"), zeroline: false, automargin: true };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: "zoom",
      ...layout,
      margin: { l: 64, r: 16, t: layout.title ? 44 : 34, b: 50, ...layout.margin },
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--text") },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--text") }, align: "left" },
      xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
    };
  }

  function prepared(trace) {
    let line = 0;
    return Array.isArray(trace.meta) ? { ...trace, text: trace.y.map((y) => trace.meta[y === null ? line++ : line]) } : trace;
  }

  function draw(element) {
    const chart = charts.get(element.dataset.chart);
    Plotly.react(element, chart.traces.map(prepared), themed(chart.layout), { responsive: true, displaylogo: false, displayModeBar: false });
    drawn.add(element);
  }

  // Charts are drawn one by one, so that the page answers in between, and only when they come near.
  const observer = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    observer.unobserve(entry.target);
    setTimeout(() => draw(entry.target));
  }), { rootMargin: "300px" });

  function setTheme(theme) {
    root.dataset.theme = theme;
    drawn.forEach(draw);
  }

  setTheme(system.matches ? "dark" : "light");
  system.addEventListener("change", () => setTheme(system.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));
  const elements = document.querySelectorAll(".chart");
  startPlotly().then(() => {
    elements.forEach((element) => observer.observe(element));
    addEventListener("beforeprint", () => { setTheme("light"); elements.forEach(draw); });
  });

  const value = (row, column) => {
    const text = row.cells[column].textContent;
    const number = Number(text.replaceAll(",", ""));
    return text === "" ? null : Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  document.querySelectorAll("table.sortable").forEach((table) => {
    const body = table.tBodies[0];
    table.querySelectorAll("th").forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      body.append(...[...body.rows].sort((a, b) => {
        const [left, right] = [value(a, column), value(b, column)];
        return left === null || right === null ? (left === null) - (right === null) : sign * compare(left, right);
      }));
    }));
  });
  document.querySelectorAll(".filter input").forEach((input) => {
    const table = document.getElementById(input.getAttribute("aria-controls"));
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/);
      for (const row of table.tBodies[0].rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    });
  });
})();
