(() => {
  "use strict";
  const NARROW = 520;
  const PAPER = 640;
  let printing = false;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const charts = [];

  // Colours in a figure are names of CSS variables, so that one figure serves every colour scheme.
  function coloured(value, styles) {
    if (typeof value === "string") {
      const name = /^var\((--[a-z0-9-]+)\)$/.exec(value);
      return name ? styles.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => coloured(item, styles));
    if (value && typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value).map(([key, item]) => [key, coloured(item, styles)]),
      );
    }
    return value;
  }

  function draw(chart) {
    const { plot, sources, choice } = chart;
    const index = choice ? Number(choice.value) : 0;
    const source = sources[index];
    const figure = coloured(JSON.parse(source.textContent), getComputedStyle(document.documentElement));
    const narrow = plot.clientWidth < NARROW;
    const short = figure.layout.meta && figure.layout.meta.narrow;
    if (narrow) {
      figure.layout.font.size = 11;
      if (short) figure.layout.yaxis.ticktext = short;
    }
    if (printing) Object.assign(figure.layout, { autosize: false, width: PAPER });
    chart.narrow = narrow;
    plot.setAttribute("aria-label", source.dataset.label);
    plot.style.height = source.dataset.height + "px";
    for (const part of chart.parts) part.hidden = Number(part.dataset.of) !== index;
    return Plotly.react(plot, figure.data, figure.layout, {
      displaylogo: false,
      displayModeBar: false,
      responsive: true,
    });
  }

  for (const figure of document.querySelectorAll("figure.chart")) {
    const chart = {
      plot: figure.querySelector(".plot"),
      sources: figure.querySelectorAll("script"),
      choice: figure.querySelector("select"),
      parts: figure.querySelectorAll("[data-of]"),
      narrow: false,
    };
    charts.push(chart);
    if (chart.choice) chart.choice.addEventListener("change", () => draw(chart));
    draw(chart);
  }
  const redraw = () => charts.forEach(draw);
  dark.addEventListener("change", redraw);
  window.addEventListener("resize", () => {
    for (const chart of charts) if (chart.plot.clientWidth < NARROW !== chart.narrow) draw(chart);
  });

  // Paper is white and narrow: print in the light colours, with all numbers.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    printing = true;
    document.documentElement.classList.add("paper");
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
    redraw();
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    document.documentElement.classList.remove("paper");
    for (const details of opened) details.open = false;
    redraw();
  });

  function sort(table, column, head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const number = (row) => Number.parseFloat(row.cells[column].dataset.value);
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [number(a), number(b)];
      // What has no number goes last, whichever way the column is sorted.
      if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
      const order = Number.isNaN(x)
        ? a.cells[column].textContent.localeCompare(b.cells[column].textContent, "en", { numeric: true })
        : x - y;
      return down ? -order : order;
    });
    body.append(...rows);
  }
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => sort(table, column, head));
    });
  }
})();
