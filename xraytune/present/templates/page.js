"use strict";
(() => {
  const root = document.documentElement;
  const elements = [...document.querySelectorAll(".chart")];
  const drawn = new Set();
  const system = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // Plotly starts after the text of the page is shown; the browser decodes and compiles it beside the page.
  async function startPlotly() {
    await new Promise((shown) => requestAnimationFrame(() => setTimeout(shown)));
    const packed = await fetch(`data:application/gzip;base64,${document.getElementById("plotly").textContent}`);
    const unpacked = new Response(packed.body.pipeThrough(new DecompressionStream("gzip")), { headers: { "content-type": "text/javascript" } });
    const script = document.createElement("script");
    script.src = URL.createObjectURL(await unpacked.blob());
    await new Promise((loaded) => { script.onload = loaded; document.head.append(script); });
  }

  function draw(element) {
    const { data, layout } = JSON.parse(element.nextElementSibling.textContent);
    const line = colour("--line");
    const axis = { gridcolor: line, linecolor: line, tickcolor: line, zeroline: false, automargin: true };
    Plotly.react(element, data, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      ...layout,
      margin: { l: 64, r: 16, t: 34, b: 50, ...layout.margin },
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--text") },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: line, font: { color: colour("--text") }, align: "left" },
      xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
    }, { responsive: true, displaylogo: false, displayModeBar: false });
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
  startPlotly().then(() => {
    elements.forEach((element) => observer.observe(element));
    addEventListener("beforeprint", () => { setTheme("light"); elements.forEach(draw); });
  });

  // The table of all trials: a click on a heading sorts the rows, empty cells last; the words of the filter select them.
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const heads = [...table.querySelectorAll("th")];
    const number = (text) => Number(text.replaceAll(",", ""));
    const compare = (a, b) => number(a) - number(b) || a.localeCompare(b, "en", { numeric: true });
    heads.forEach((head, column) => head.addEventListener("click", () => {
      const direction = head.ariaSort === "ascending" ? "descending" : "ascending";
      const text = (row) => row.cells[column].textContent;
      const rows = [...body.rows].sort((a, b) => compare(text(a), text(b)));
      heads.forEach((other) => { other.ariaSort = null; });
      head.ariaSort = direction;
      if (direction === "descending") rows.reverse();
      body.append(...rows.filter(text), ...rows.filter((row) => !text(row)));
    }));
    const input = table.closest(".table").querySelector("input");
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/);
      for (const row of body.rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    });
  }
})();
