"use strict";
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);

  // --- figures -------------------------------------------------------------------------------------------------
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 640px)");
  const touch = matchMedia("(pointer: coarse)");
  const template = (paper) => content.templates[dark.matches && !paper ? "dark" : "light"];
  const config = {
    responsive: true,
    displaylogo: false,
    // Buttons are for a mouse, and none of them may send the data anywhere: plotly offers that by default.
    displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
    showSendToCloud: false,
    plotlyServerURL: "",
  };

  function layoutOf(figure, paper) {
    const layout = { ...figure.layout, template: template(paper) };
    // A finger that scrolls the page must not zoom the figure under it.
    if (touch.matches) layout.dragmode = false;
    // A colour bar would take a third of a phone: the cells say their values.
    if (narrow.matches) {
      // A legend below the axes would leave them no room.
      if (layout.legend && layout.legend.y < 0) layout.showlegend = false;
      for (const name of ["coloraxis", "coloraxis2"]) {
        if (layout[name]) layout[name] = { ...layout[name], showscale: false };
      }
    }
    return layout;
  }

  function draw(paper = false) {
    for (const figure of content.figures) {
      // A copy: plotly writes what it works out into the layout that it is given.
      const layout = JSON.parse(JSON.stringify(layoutOf(figure, paper)));
      Plotly.react(figure.id, figure.data, layout, config);
    }
  }

  draw();
  dark.addEventListener("change", () => draw());
  narrow.addEventListener("change", () => draw());
  addEventListener("beforeprint", () => draw(true));
  addEventListener("afterprint", () => draw());

  // --- tables of components ------------------------------------------------------------------------------------
  const NUMBERS = new Set(["count", "weight", "amount"]);

  function shown(column, row) {
    const value = column.values[row];
    if (column.names) return column.names[value];
    if (value === null) return "undefined";
    if (column.type === "count" || column.type === "text") return String(value);
    const size = Math.abs(value);
    const text = size !== 0 && (size < 1e-3 || size >= 1e4) ? size.toExponential(2) : size.toFixed(4);
    const sign = value < 0 ? "−" : column.type === "weight" ? "+" : "";
    return sign + text;
  }

  function compare(column, order) {
    const { values, names } = column;
    if (names) return (a, b) => names[values[a]].localeCompare(names[values[b]], "en", { numeric: true });
    if (column.type === "text") return (a, b) => values[a].localeCompare(values[b], "en", { numeric: true });
    const of = (row) => (order === "other" ? Math.abs(values[row]) : values[row]);
    return (a, b) => of(a) - of(b);
  }

  function componentTable(box) {
    const columns = content.tables[box.dataset.table];
    const count = columns[0].values.length;
    const head = box.querySelector("thead");
    const body = box.querySelector("tbody");
    const [filter, size, status] = ["input", "select", "[role=status]"].map((query) => box.querySelector(query));
    const button = (name) => box.querySelector(`[data-do=${name}]`);
    const all = Array.from({ length: count }, (_, row) => row);
    const texts = all.map((row) =>
      columns.filter((c) => c.type === "text").map((c) => shown(c, row)).join(" ").toLowerCase()
    );
    // Rows arrive strongest first, which is the first weight column by its size.
    let sorted = all.slice();
    let rows = sorted;
    let page = 0;
    let by = { column: columns.findIndex((c) => c.type === "weight"), order: "other" };

    function cells() {
      const row = document.createElement("tr");
      columns.forEach((column, index) => {
        const cell = document.createElement("th");
        const sort = document.createElement("button");
        cell.scope = "col";
        if (NUMBERS.has(column.type)) cell.className = "number";
        sort.type = "button";
        sort.textContent = column.label;
        sort.addEventListener("click", () => sortBy(index));
        cell.append(sort);
        row.append(cell);
      });
      head.replaceChildren(row);
    }

    function sortBy(index) {
      const column = columns[index];
      const orders = column.type === "weight" ? ["descending", "ascending", "other"]
        : NUMBERS.has(column.type) ? ["descending", "ascending"] : ["ascending", "descending"];
      const now = by.column === index ? orders.indexOf(by.order) : -1;
      by = { column: index, order: orders[(now + 1) % orders.length] };
      const order = compare(column, by.order);
      const empty = (row) => column.values[row] === null;
      const direction = by.order === "ascending" ? 1 : -1;
      // Undefined values come last whichever way the others are sorted.
      sorted = all.slice().sort((a, b) => empty(a) - empty(b) || direction * order(a, b));
      page = 0;
      choose();
    }

    function choose() {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      rows = words.length ? sorted.filter((row) => words.every((word) => texts[row].includes(word))) : sorted;
      show();
    }

    function show() {
      const step = Number(size.value);
      const pages = Math.max(Math.ceil(rows.length / step), 1);
      page = Math.min(Math.max(page, 0), pages - 1);
      const here = rows.slice(page * step, (page + 1) * step);
      body.replaceChildren(...here.map((row) => {
        const line = document.createElement("tr");
        for (const column of columns) {
          const cell = document.createElement("td");
          cell.textContent = shown(column, row);
          if (NUMBERS.has(column.type)) cell.className = "number";
          if (column.type === "weight" && column.values[row]) {
            cell.classList.add(column.values[row] > 0 ? "raises" : "lowers");
          }
          line.append(cell);
        }
        return line;
      }));
      [...head.rows[0].cells].forEach((cell, index) => {
        if (index === by.column) cell.setAttribute("aria-sort", by.order);
        else cell.removeAttribute("aria-sort");
      });
      const first = rows.length ? page * step + 1 : 0;
      const of = rows.length.toLocaleString("en") + (rows.length < count ? ` (of ${count.toLocaleString("en")})` : "");
      status.textContent = `${first.toLocaleString("en")}–${(page * step + here.length).toLocaleString("en")} of ${of}`;
      button("first").disabled = button("previous").disabled = page === 0;
      button("next").disabled = button("last").disabled = page === pages - 1;
    }

    function save() {
      const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
      const value = (column, row) => (column.names ? column.names[column.values[row]] : column.values[row] ?? "");
      const lines = [columns.map((c) => quoted(c.label.replace("\n", " "))), ...rows.map((r) => columns.map((c) => quoted(value(c, r))))];
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([lines.map((l) => l.join(",")).join("\r\n")], { type: "text/csv" }));
      link.download = "components.csv";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }

    const turn = (to) => () => { page = to(); show(); };
    button("first").addEventListener("click", turn(() => 0));
    button("previous").addEventListener("click", turn(() => page - 1));
    button("next").addEventListener("click", turn(() => page + 1));
    button("last").addEventListener("click", turn(() => Infinity));
    button("save").addEventListener("click", save);
    size.addEventListener("change", turn(() => 0));
    filter.addEventListener("input", () => { page = 0; choose(); });
    cells();
    show();
  }

  document.querySelectorAll(".components").forEach(componentTable);
})();
