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
    chart.drawn = true;
    chart.width = plot.clientWidth;
    plot.setAttribute("aria-label", source.dataset.label);
    plot.style.height = source.dataset.height + "px";
    for (const part of chart.parts) part.hidden = Number(part.dataset.of) !== index;
    return Plotly.react(plot, figure.data, figure.layout, {
      displaylogo: false,
      displayModeBar: false,
    });
  }

  for (const figure of document.querySelectorAll("figure.chart")) {
    const chart = {
      plot: figure.querySelector(".plot"),
      sources: figure.querySelectorAll("script"),
      choice: figure.querySelector("select"),
      parts: figure.querySelectorAll("[data-of]"),
      narrow: false,
      drawn: false,
      width: 0,
    };
    charts.push(chart);
    if (chart.choice) chart.choice.addEventListener("change", () => draw(chart));
  }
  const redraw = (every) => charts.filter((chart) => every || chart.drawn).forEach(draw);
  dark.addEventListener("change", () => redraw(false));
  let resized = 0;
  window.addEventListener("resize", () => {
    window.cancelAnimationFrame(resized);
    resized = window.requestAnimationFrame(() => {
      for (const chart of charts) {
        const wide = chart.plot.clientWidth;
        // What is not laid out has no width to draw in.
        if (!chart.drawn || wide === 0 || wide === chart.width) continue;
        if (wide < NARROW !== chart.narrow) draw(chart);
        else Plotly.Plots.resize(chart.plot);
        chart.width = wide;
      }
    });
  });

  // A chart is drawn when it comes near the window, the others while nothing else is to be done:
  // a page of many charts answers at once.
  const watch = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        watch.unobserve(entry.target);
        const chart = charts.find((one) => one.plot === entry.target);
        if (!chart.drawn) draw(chart);
      }
    },
    { rootMargin: "300px 0px" },
  );
  for (const chart of charts) watch.observe(chart.plot);
  const idle = window.requestIdleCallback || ((call) => window.setTimeout(call, 50));
  const drawRest = () => {
    const chart = charts.find((one) => !one.drawn);
    if (!chart) {
      document.documentElement.dataset.drawn = "all";
      return;
    }
    draw(chart);
    idle(drawRest);
  };
  idle(drawRest);

  // Paper is white and narrow: print in the light colours, with all numbers.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    printing = true;
    document.documentElement.classList.add("paper");
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
    redraw(true);
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    document.documentElement.classList.remove("paper");
    for (const details of opened) details.open = false;
    redraw(true);
  });

  const cellNumber = (cell) => Number.parseFloat(cell.dataset.value);

  function sort(table, column, head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [cellNumber(a.cells[column]), cellNumber(b.cells[column])];
      // What has no number goes last, whichever way the column is sorted.
      if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
      const order = Number.isNaN(x)
        ? a.cells[column].textContent.localeCompare(b.cells[column].textContent, "en", { numeric: true })
        : x - y;
      return down ? -order : order;
    });
    body.append(...rows);
    return `sorted by ${head.textContent}, ${down ? "falling" : "rising"}`;
  }

  // Every word must stand somewhere in a row.
  function filter(table, text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) {
      const said = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => said.includes(word));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    return words.length ? `${shown} of ${rows.length} rows` : "";
  }

  // Numbers go out whole, not as they are rounded for the page. A text that a spreadsheet would
  // take for a formula gets an apostrophe in front.
  function csv(table) {
    const quoted = (text) => {
      const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
      return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    const value = (cell) => cell.dataset.value || quoted(cell.textContent.trim());
    const rows = [...table.rows].filter((row) => !row.hidden);
    return rows.map((row) => [...row.cells].map(value).join(",") + "\r\n").join("");
  }

  function save(name, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv;charset=utf-8" }));
    link.download = name;
    link.click();
    window.setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const tools = table.parentElement.previousElementSibling;
    const status = tools.querySelector("[role=status]");
    const search = tools.querySelector("input");
    tools.hidden = false;
    search.addEventListener("input", () => {
      status.textContent = filter(table, search.value);
    });
    tools.querySelector("button").addEventListener("click", () => {
      const name = table.caption.textContent.toLowerCase().replace(/[^a-z0-9]+/g, "-");
      save(`${name.replace(/^-|-$/g, "").slice(0, 60) || "table"}.csv`, csv(table));
    });
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = head.querySelector("button");
      if (button)
        button.addEventListener("click", () => {
          status.textContent = sort(table, column, head);
        });
    });
  }
  document.documentElement.dataset.ready = "yes";
})();
