"use strict";
// Sortable tables, the table of all figures, and the explorer. No text is ever set as HTML.

(() => {
  const make = (tag, text, attributes = {}) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };

  // Numbers sort as numbers, words as words, what is missing last in both directions.
  const compare = (a, b, sign) => {
    if (a === "" || b === "") return a === b ? 0 : a === "" ? 1 : -1;
    const [x, y] = [Number(a), Number(b)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
    return sign * String(a).localeCompare(String(b), "en", { numeric: true });
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("table.sortable th button");
    if (!button) return;
    const head = button.parentElement;
    const body = head.closest("table").tBodies[0];
    const column = head.cellIndex;
    const value = (row) => row.cells[column].dataset.sort;
    const numeric = [...body.rows].some((row) => row.cells[column].classList.contains("number"));
    const before = head.getAttribute("aria-sort");
    // Figures start with the largest, words with the first.
    const descending = before === "none" ? numeric : before === "ascending";
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => compare(value(a), value(b), descending ? -1 : 1));
    body.append(...rows);
  });

  const records = () => {
    const { columns, rows } = JSON.parse(document.getElementById("records-data").textContent);
    const table = document.getElementById("records-table");
    const heads = columns.map((name) => {
      const head = make("th", undefined, { scope: "col", "aria-sort": "none" });
      head.append(make("button", name.replaceAll("_", " "), { type: "button" }));
      return head;
    });
    const line = make("tr");
    line.append(...heads);
    table.tHead.append(line);
    const lines = rows.map((row) => {
      const line = make("tr");
      line.append(
        ...row.map((value) => {
          const cell = make("td", value === null ? "–" : String(value), { "data-sort": value ?? "" });
          if (typeof value === "number") cell.className = "number";
          return cell;
        }),
      );
      return [line, row.join(" ").toLowerCase()];
    });
    table.tBodies[0].append(...lines.map(([line]) => line));
    const filter = document.getElementById("filter");
    const show = () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const [line, text] of lines) {
        line.hidden = !words.every((word) => text.includes(word));
        count += line.hidden ? 0 : 1;
      }
      document.getElementById("count").textContent = `${count} of ${lines.length} rows`;
    };
    filter.addEventListener("input", show);
    show();
  };
  records();

  const source = document.getElementById("explorer-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const sheet = document.getElementById("sprite");
  const card = document.getElementById("card");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const scheme = () => (dark.matches ? "dark" : "light");
  const color = (code) => data.colors[scheme()][code % data.colors.light.length] ?? "#808080";
  const name = (code) => data.classes[code] ?? (code < 0 ? "no label" : String(code));
  const placed = [...data.first]; // map shown in each panel
  const hidden = new Set();

  const draw = (canvas, i) => {
    const [width, height] = data.cell;
    canvas.width = width;
    canvas.height = height;
    const [x, y] = [(i % data.columns) * width, Math.floor(i / data.columns) * height];
    canvas.getContext("2d").drawImage(sheet, x, y, width, height, 0, 0, width, height);
  };
  const swatch = (code) => {
    const dot = make("span", undefined, { class: "swatch" });
    dot.style.background = color(code);
    dot.dataset.code = code;
    return dot;
  };
  const describe = (i, panel) => {
    const title = make("strong");
    title.append(swatch(data.labels[i]), name(data.labels[i]));
    const parts = [title, make("div", `test image ${data.position[i]}`)];
    const guess = data.predicted[placed[panel]]?.[i];
    if (guess !== undefined) parts.push(make("div", `KNN here says ${name(guess)}`));
    return parts;
  };

  let pointer = [0, 0];
  let touched = null; // number of the panel that a finger touched last
  document.addEventListener("pointerdown", (event) => {
    pointer = [event.clientX, event.clientY];
    const panel = event.target.closest?.(".panel")?.querySelector("select").dataset.panel;
    touched = event.pointerType === "touch" && panel !== undefined ? Number(panel) : null;
    if (touched !== null) card.hidden = true;
  }, { capture: true });
  const put = () => {
    const [x, y] = pointer;
    const [width, height] = [card.offsetWidth, card.offsetHeight];
    const left = x + 18 + width > window.innerWidth ? x - 18 - width : x + 18;
    const top = Math.min(y + 12, window.innerHeight - height - 8);
    card.style.transform = `translate(${Math.max(left, 4)}px, ${Math.max(top, 4)}px)`;
  };
  document.addEventListener("pointermove", (event) => {
    pointer = [event.clientX, event.clientY];
    if (card.hidden || event.pointerType === "touch") return;
    if (event.target.closest?.(".plot")) put();
    else card.hidden = true;
  });
  document.addEventListener("scroll", () => (card.hidden = true), { passive: true });

  const showCard = (i, panel) => {
    card.hidden = false;
    draw(card.querySelector("canvas"), i);
    card.querySelector("div").replaceChildren(...describe(i, panel));
    put();
  };

  const gallery = document.getElementById("gallery");
  const neighbours = document.getElementById("neighbours");
  const choose = (indices) => (model("source").selected.indices = indices);
  // An image that can be pressed, to select it alone.
  const thumbnail = (i, wrong = false) => {
    const item = make("button", undefined, { type: "button", title: `test image ${data.position[i]}` });
    const canvas = make("canvas");
    draw(canvas, i);
    item.append(canvas, make("div", name(data.labels[i]), wrong ? { class: "wrong" } : {}));
    item.addEventListener("click", () => choose([i]));
    return item;
  };
  // The images that lie nearest to one on each map shown; distances are those of the map.
  const NEAREST = 8;
  const nearest = (i, place) => {
    const [x, y] = ["x", "y"].map((axis) => model("source").get(`${axis}${place}`));
    const far = (j) => (x[j] - x[i]) ** 2 + (y[j] - y[i]) ** 2;
    const others = [...data.labels.keys()].filter((j) => j !== i);
    return others.sort((a, b) => far(a) - far(b)).slice(0, NEAREST);
  };
  const showNeighbours = (i) => {
    const places = [...new Set(placed)];
    neighbours.replaceChildren(
      ...places.flatMap((place) => {
        const row = make("div");
        row.append(...nearest(i, place).map((j) => thumbnail(j, data.labels[j] !== data.labels[i])));
        return [make("h3", `Nearest to it on the map ${data.maps[place].title}`), row];
      }),
    );
  };
  const summary = document.getElementById("selected");
  const MOST = 60;

  window.explorer = {
    hover(indices, panel) {
      if (touched !== null) return; // a tap shows the card through its selection
      if (indices.length) showCard(indices[indices.length - 1], panel);
      else card.hidden = true;
    },
    select(indices) {
      if (touched !== null && indices.length) showCard(indices[0], touched);
      if (!indices.length) {
        summary.textContent = "Nothing selected.";
        gallery.replaceChildren();
        neighbours.replaceChildren();
        return;
      }
      const counts = new Map();
      for (const i of indices) counts.set(data.labels[i], (counts.get(data.labels[i]) ?? 0) + 1);
      const parts = [...counts]
        .sort((a, b) => b[1] - a[1])
        .map(([code, count]) => `${name(code)} ${count}`);
      const more = indices.length > MOST ? ` The first ${MOST}:` : "";
      summary.textContent =
        `${indices.length} of ${data.labels.length} selected: ${parts.join(", ")}.${more} `;
      const clear = make("button", "Clear", { type: "button" });
      clear.addEventListener("click", () => choose([]));
      summary.append(clear);
      gallery.replaceChildren(...indices.slice(0, MOST).map((i) => thumbnail(i)));
      if (indices.length === 1) showNeighbours(indices[0]);
      else {
        neighbours.replaceChildren();
        summary.append(" Press an image for its nearest neighbours on each map.");
      }
    },
    ready: false,
  };

  let bokeh = null;
  const model = (key) => bokeh.get_model_by_name(key);

  // Whether KNN on a map named an image rightly: 0 yes, 1 no, 2 not known.
  const error = (i, place) => {
    const guess = data.predicted[place]?.[i];
    return guess === undefined || data.labels[i] < 0 ? 2 : Number(guess !== data.labels[i]);
  };
  let byError = false;
  const ERRORS = ["named rightly by KNN", "named wrongly", "not known"];
  const colorPoints = () => {
    const palette = byError ? data.errors[scheme()] : data.colors[scheme()];
    model("mapper").setv({ palette, low: -0.5, high: palette.length - 0.5 });
    for (let panel = 0; panel < placed.length; panel++) {
      const codes = model("source").get(`error${panel}`);
      for (let i = 0; i < codes.length; i++) codes[i] = error(i, placed[panel]);
    }
    model("source").change.emit();
    for (let panel = 0; panel < placed.length; panel++) {
      const field = byError ? `error${panel}` : "label";
      const points = model(`points-${panel}`);
      for (const glyph of ["glyph", "selection_glyph", "nonselection_glyph", "hover_glyph"]) {
        points[glyph].fill_color = { field, transform: model("mapper") };
      }
    }
    const legend = document.getElementById("errors");
    legend.hidden = !byError;
    legend.replaceChildren(
      ...ERRORS.map((text, code) => {
        const item = make("span");
        const dot = make("span", undefined, { class: "swatch" });
        dot.style.background = data.errors[scheme()][code];
        item.append(dot, text);
        return item;
      }),
    );
  };

  // Images by a class's name, by their number among the test images, or those KNN gets wrong.
  const search = (text) => {
    const rows = [...data.labels.keys()];
    const word = text.trim().toLowerCase();
    if (!word) return [];
    const names = data.classes.map((one) => one.toLowerCase());
    const exact = names.some((one) => one === word);
    const codes = new Set(
      [...names.keys()].filter((code) => (exact ? names[code] === word : names[code].includes(word))),
    );
    if (codes.size) return rows.filter((i) => codes.has(data.labels[i]));
    if (word === "wrong") return rows.filter((i) => error(i, placed[0]) === 1);
    const number = Number(word.replace(/^#/, ""));
    return rows.filter((i) => data.position[i] === number);
  };

  const paint = () => {
    colorPoints();
    const style = getComputedStyle(document.documentElement);
    const [line, ink] = ["--line", "--ink"].map((key) => style.getPropertyValue(key).trim());
    for (let i = 0; i < placed.length; i++) {
      model(`panel-${i}`).outline_line_color = line;
      model(`points-${i}`).hover_glyph.line_color = ink;
    }
    for (const dot of document.querySelectorAll("#classes .swatch")) {
      dot.style.background = color(Number(dot.dataset.code));
    }
  };
  const showMap = (panel, place) => {
    placed[panel] = place;
    const points = model(`points-${panel}`);
    for (const glyph of ["glyph", "selection_glyph", "nonselection_glyph", "hover_glyph"]) {
      points[glyph].x = { field: `x${place}` };
      points[glyph].y = { field: `y${place}` };
    }
    const [left, right, bottom, top] = data.maps[place].bounds;
    const plot = model(`panel-${panel}`);
    plot.x_range.setv({ start: left, end: right, reset_start: left, reset_end: right });
    plot.y_range.setv({ start: bottom, end: top, reset_start: bottom, reset_end: top });
    if (byError) colorPoints();
  };

  const controls = () => {
    const chips = document.getElementById("classes");
    for (const code of data.shown) {
      const chip = make("button", undefined, { type: "button", "aria-pressed": "true" });
      chip.append(swatch(code), name(code));
      chip.addEventListener("click", () => {
        if (!hidden.delete(code)) hidden.add(code);
        chip.setAttribute("aria-pressed", String(!hidden.has(code)));
        model("filter").booleans = data.labels.map((label) => !hidden.has(label));
      });
      chips.append(chip);
    }
    const find = document.getElementById("find");
    find.addEventListener("input", () => {
      const found = search(find.value);
      document.getElementById("found").textContent =
        find.value.trim() && !found.length ? "Nothing found among the images shown." : "";
      choose(found);
    });
    document.getElementById("color-by")?.addEventListener("change", (event) => {
      byError = event.target.value === "error";
      document.getElementById("classes").classList.toggle("plain", byError);
      colorPoints();
    });
    for (const select of document.querySelectorAll(".panel select")) {
      const panel = Number(select.dataset.panel);
      data.maps.forEach((map, i) => select.append(make("option", map.title, { value: i })));
      select.value = placed[panel];
      select.addEventListener("change", () => showMap(panel, Number(select.value)));
    }
  };

  const start = () => {
    bokeh = window.Bokeh?.documents[0];
    if (!bokeh || !model("source")) {
      setTimeout(start, 30);
      return;
    }
    controls();
    paint();
    dark.addEventListener("change", paint);
    // With a finger, dragging scrolls the page until a tool is chosen.
    if (window.matchMedia("(pointer: coarse)").matches) {
      for (let i = 0; i < placed.length; i++) model(`panel-${i}`).toolbar.active_drag = null;
      for (let i = 0; i < placed.length; i++) {
        for (const tool of model(`panel-${i}`).toolbar.tools) {
          if (tool.type === "BoxSelectTool") tool.active = false;
        }
      }
    }
    window.explorer.ready = true;
  };
  start();
})();
