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
    // A copy: plotly writes what it works out into the layout that it is given.
    const layout = JSON.parse(JSON.stringify({ ...figure.layout, template: template(paper) }));
    if (figure.framed) {
      layout.shapes = [{ type: "rect", line: { color: layout.template.layout.font.color, width: 2 }, ...figure.framed }];
    }
    // A finger that scrolls the page must not zoom the figure under it.
    if (touch.matches) layout.dragmode = false;
    // A colour bar would take a third of a phone: the cells say their values.
    if (narrow.matches) {
      // A legend below the axes would leave them no room.
      if (layout.legend && layout.legend.y < 0) layout.showlegend = false;
      for (const name of ["coloraxis", "coloraxis2"]) {
        if (layout[name]) layout[name].showscale = false;
      }
      if (figure.panels) stack(layout, figure.panels);
    }
    return layout;
  }

  // Panels that stand side by side, one below the other: a phone has no room for three of them.
  function stack(layout, count) {
    const room = (1 - 0.1 * (count - 1)) / count;
    for (let place = 0; place < count; place++) {
      const number = place ? place + 1 : "";
      const top = 1 - place * (room + 0.1);
      Object.assign(layout[`xaxis${number}`], { domain: [0, 1] }, place < count - 1 ? { title: {} } : {});
      Object.assign(layout[`yaxis${number}`], { domain: [Math.max(top - room, 0), top], showticklabels: true, tickfont: { size: 8 } });
      Object.assign(layout.annotations[place], { x: 0.5, y: top });
    }
  }

  function drawOne(figure, paper) {
    const plot = document.getElementById(figure.id);
    if (plot.hidden) return;
    if (figure.panels) plot.style.height = `${figure.height * (narrow.matches ? 1 + 0.4 * figure.panels : 1)}px`;
    Plotly.react(plot, figure.data, layoutOf(figure, paper), config).then(() => {
      // The window may have another width than when this was last seen: plotly looks away from what is hidden.
      if (figure.panels && !plot.hidden) Plotly.Plots.resize(plot);
    });
  }

  const draw = (paper = false) => content.figures.forEach((figure) => drawOne(figure, paper));

  // --- what a click on a cell of a heat map opens --------------------------------------------------------------
  function opens(one) {
    const box = document.querySelector(`[data-opened="${one.figure}"]`);
    const [heatMap, figure] = [one.heatMap, one.figure].map((id) => content.figures.find((each) => each.id === id));
    const [partBox, headBox] = ["part", "head"].map((name) => box.querySelector(`[data-do=${name}]`));
    const [caption, rest] = ["strong", "span"].map((name) => box.querySelector(`figcaption ${name}`));
    const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
    const cells = new Map(one.cells.map(([part, head, scale, change]) => [`${part},${head}`, { scale, change }]));
    const kept = (index) => [...new Set(one.cells.map((cell) => cell[index]))].sort((a, b) => a - b);

    // A grid of what bytes say, row by row; nothing is after the diagonal of causal attention.
    function grid(text, value) {
      const bytes = atob(text);
      let at = 0;
      return Array.from({ length: one.size[0] }, (_, query) =>
        Array.from({ length: one.size[1] }, (_, key) => (one.causal && key > query ? 0 : value(bytes.charCodeAt(at++))))
      );
    }

    function fill(head, cell, named) {
      const clean = grid(one.clean[head], (byte) => byte / 255);
      const change = grid(cell.change, (byte) => ((byte - 128) / 127) * cell.scale);
      const without = clean.map((row, query) => row.map((value, key) => Math.min(Math.max(value + change[query][key], 0), 1)));
      [clean, without, change].forEach((panel, place) => { figure.data[place].z = panel; });
      ["clean", named, "difference"].forEach((text, place) => { figure.layout.annotations[place].text = text; });
      Object.assign(figure.layout.coloraxis, { cmin: -cell.scale, cmax: cell.scale });
      figure.layout.coloraxis2.cmax = [...clean.flat(), ...without.flat()].reduce((most, value) => Math.max(most, value));
    }

    const options = (names, places) => places.map((value) => Object.assign(document.createElement("option"), { textContent: names[value], value }));
    partBox.append(...options(one.parts, kept(0)));
    headBox.append(...options(one.heads, kept(1)));

    function open(part, head) {
      const cell = cells.get(`${part},${head}`);
      const [partName, headName] = [one.parts[part], one.heads[head]];
      const missing = one.complete ? "it does not change in this example" : "it is not on this page, for it changes too little";
      caption.textContent = `Attention of ${headName} without ${partName}${cell ? "" : `: ${missing}`}`;
      if (cell) fill(head, cell, partName.length > 28 ? "without the part" : `without ${escaped(partName)}`);
      const plot = document.getElementById(one.figure);
      rest.hidden = plot.hidden = !cell;
      plot.setAttribute("aria-label", caption.textContent);
      // Of a cell that is not there the boxes stay empty: the caption says what was asked for.
      [partBox.value, headBox.value] = cell ? [part, head] : ["", ""];
      heatMap.framed = { x0: head - 0.5, x1: head + 0.5, y0: part - 0.5, y1: part + 0.5 };
      now = [part, head];
    }

    let now = one.cells[0].slice(0, 2);
    const show = () => { drawOne(figure); drawOne(heatMap); };
    // The other of the two stays what it is, or becomes what changes the most: cells come in that order.
    function choose(place, box) {
      const wanted = Number(box.value);
      const other = now[1 - place];
      const found = one.cells.filter((cell) => cell[place] === wanted);
      open(...(found.find((cell) => cell[1 - place] === other) ?? found[0]).slice(0, 2));
      show();
    }
    partBox.addEventListener("change", () => choose(0, partBox));
    headBox.addEventListener("change", () => choose(1, headBox));
    open(...now);
    document.getElementById(one.heatMap).classList.add("opens");
    return () => document.getElementById(one.heatMap).on("plotly_click", (event) => {
      open(...event.points[0].pointNumber);
      show();
      box.scrollIntoView({ block: "nearest" });
    });
  }

  const clicks = content.opened.map(opens);
  draw();
  clicks.forEach((listen) => listen());
  dark.addEventListener("change", () => draw());
  narrow.addEventListener("change", () => draw());
  addEventListener("beforeprint", () => draw(true));
  addEventListener("afterprint", () => draw());

  // --- tables that sort, and page where they are long -----------------------------------------------------------
  const NUMBERS = new Set(["count", "weight", "amount", "written"]);
  // Rows up to which paper shows all of a table.
  const PRINTED = 200;

  // Columns that came as data, or those of a table in the page, whose numbers sort as they are written.
  function columnsOf(box) {
    const given = content.tables[box.dataset.table];
    if (given) return given;
    const rows = [...box.querySelector("tbody").rows];
    return [...box.querySelector("thead").rows[0].cells].map((head, index) => {
      const texts = rows.map((row) => row.cells[index].textContent);
      const written = head.classList.contains("number");
      return { label: head.textContent, type: written ? "written" : "text", texts, values: written ? texts.map(number) : texts };
    });
  }

  function number(text) {
    const value = parseFloat(text.replaceAll(",", "").replaceAll("−", "-"));
    return Number.isNaN(value) ? null : value;
  }

  function shown(column, row) {
    const value = column.values[row];
    if (column.texts) return column.texts[row];
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

  function sortable(box) {
    const columns = columnsOf(box);
    const count = columns[0].values.length;
    const head = box.querySelector("thead");
    const body = box.querySelector("tbody");
    const [filter, size, status] = ["input", "select", "[role=status]"].map((query) => box.querySelector(query));
    const button = (name) => box.querySelector(`[data-do=${name}]`);
    const paged = Boolean(size);
    let paper = false;
    const all = Array.from({ length: count }, (_, row) => row);
    const texts = all.map((row) =>
      columns.filter((c) => c.type === "text").map((c) => shown(c, row)).join(" ").toLowerCase()
    );
    // Components arrive strongest first, which is the first weight column by its size.
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
      const empty = (row) => column.values[row] === null || column.values[row] === "";
      const direction = by.order === "ascending" ? 1 : -1;
      // Undefined values and empty cells come last whichever way the others are sorted.
      sorted = all.slice().sort((a, b) => empty(a) - empty(b) || direction * order(a, b));
      page = 0;
      choose();
    }

    function choose() {
      const words = (filter?.value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
      rows = words.length ? sorted.filter((row) => words.every((word) => texts[row].includes(word))) : sorted;
      show();
    }

    function show() {
      const step = !paged || (paper && count <= PRINTED) ? Math.max(count, 1) : Number(size.value);
      const pages = Math.max(Math.ceil(rows.length / step), 1);
      const at = Math.min(Math.max(page, 0), pages - 1);
      // Paper may show all, and the screen after it the same page as before.
      if (!paper) page = at;
      const here = rows.slice(at * step, (at + 1) * step);
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
      if (!paged) return;
      const first = rows.length ? at * step + 1 : 0;
      const of = rows.length.toLocaleString("en") + (rows.length < count ? ` (of ${count.toLocaleString("en")})` : "");
      status.textContent = `${first.toLocaleString("en")}–${(at * step + here.length).toLocaleString("en")} of ${of}`;
      button("first").disabled = button("previous").disabled = at === 0;
      button("next").disabled = button("last").disabled = at === pages - 1;
    }

    function save() {
      const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
      // Numbers as other programs read them: "1,234" as 1234, and nothing where there is none.
      const plain = (column, row) => {
        const text = column.texts[row].replaceAll("−", "-");
        if (column.type !== "written") return text;
        return column.values[row] === null ? "" : text.replaceAll(",", "");
      };
      const value = (column, row) => column.texts ? plain(column, row) : column.names?.[column.values[row]] ?? column.values[row] ?? "";
      const lines = [columns.map((c) => quoted(c.label.replace("\n", " "))), ...rows.map((r) => columns.map((c) => quoted(value(c, r))))];
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([lines.map((l) => l.join(",")).join("\r\n")], { type: "text/csv" }));
      link.download = box.dataset.file;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }

    const turn = (to) => () => { page = to(); show(); };
    if (paged) {
      button("first").addEventListener("click", turn(() => 0));
      button("previous").addEventListener("click", turn(() => page - 1));
      button("next").addEventListener("click", turn(() => page + 1));
      button("last").addEventListener("click", turn(() => Infinity));
      button("save").addEventListener("click", save);
      size.addEventListener("change", turn(() => 0));
      filter.addEventListener("input", () => { page = 0; choose(); });
      for (const [event, on] of [["beforeprint", true], ["afterprint", false]]) {
        addEventListener(event, () => { paper = on; show(); });
      }
    }
    cells();
    show();
  }

  document.querySelectorAll(".sortable").forEach(sortable);
})();
