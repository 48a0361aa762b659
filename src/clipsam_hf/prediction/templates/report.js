"use strict";
{
  const CHUNK = 60; // rows that are made at once, as one scrolls
  const PRINTED_PICTURES = 300; // more would not fit into memory
  const BINS = 60;

  const find = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(find(id).textContent);
  const recorded = read("about").threshold;
  const rows = read("data");
  rows.forEach((row, number) => {
    row.number = number;
    row.defects = [...new Set(row.regions.map((region) => region.defect).filter((defect) => defect !== null))].join(", ");
  });
  const scores = rows.filter((row) => row.error === null).map((row) => row.score);
  const failed = rows.length - scores.length;
  const isNamed = document.querySelector("th[data-key=defects]") !== null;

  const state = { threshold: recorded, show: "all", search: "", key: "score", descending: true };
  let listed = []; // what the table holds, in its order
  let made = 0; // how many of them have a row in the page
  let current = null; // the row in the viewer

  const count = (number) => number.toLocaleString("en-US");
  const fixed = (number) => number.toFixed(3);
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const nameOf = (row) => row.path.replaceAll(/[\u0000-\u001f\u007f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");

  function verdictOf(row) {
    if (row.error !== null) return "unreadable";
    if (state.threshold === null || state.threshold === recorded) return row.label ?? "unjudged";
    return row.score > state.threshold ? "anomalous" : "normal";
  }

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  function draw(tag, attributes = {}, text = "") {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    return element;
  }

  function setPicture(image, kind, row) {
    const source = find(`${kind}-${row.number}`);
    if (source === null) return image.removeAttribute("href");
    image.setAttribute("href", `data:image/jpeg;base64,${source.textContent}`);
  }

  function frame(svg, row) {
    svg.setAttribute("viewBox", `0 0 ${row.width} ${row.height}`);
    for (const image of svg.querySelectorAll("image")) {
      image.setAttribute("width", row.width);
      image.setAttribute("height", row.height);
      image.setAttribute("preserveAspectRatio", "none");
    }
  }

  // ------------------------------------------------------------------------------------------------ the table

  const values = {
    path: (row) => row.path,
    score: (row) => row.score,
    verdict: (row) => (row.error === null ? verdictOf(row) : null),
    regions: (row) => (row.error === null ? row.regions.length : null),
    defects: (row) => row.defects || null,
    size: (row) => (row.error === null ? row.width * row.height : null),
    error: (row) => row.error,
  };
  const collator = new Intl.Collator("en", { numeric: true });

  function compare(first, second) {
    const [a, b] = [values[state.key](first), values[state.key](second)];
    if (a === null || b === null) return (a === null) - (b === null) || first.number - second.number; // at the end, always
    const order = typeof a === "string" ? collator.compare(a, b) : a - b;
    return (state.descending ? -order : order) || first.number - second.number;
  }

  function list() {
    const text = state.search.toLowerCase();
    const matches = (row) => [row.path, row.defects, row.error ?? ""].some((each) => each.toLowerCase().includes(text));
    const isShown = (row) => (state.show === "all" || verdictOf(row) === state.show) && matches(row);
    listed = rows.filter(isShown).sort(compare);
    made = 0;
    find("rows").replaceChildren();
    makeRows(CHUNK);
    for (const heading of document.querySelectorAll("th[data-key]")) {
      const order = state.descending ? "descending" : "ascending";
      heading.setAttribute("aria-sort", heading.dataset.key === state.key ? order : "none");
    }
    const all = listed.length === rows.length ? "" : ` of ${count(rows.length)}`;
    find("shown").textContent = listed.length ? `${count(listed.length)}${all} shown` : "Nothing matches.";
  }

  function makeRows(number) {
    const added = listed.slice(made, made + number).map(makeRow);
    made += added.length;
    find("rows").append(...added);
  }

  function makeRow(row) {
    const thumbnail = draw("svg", { class: "thumbnail", "aria-hidden": "true", preserveAspectRatio: "xMidYMid slice" });
    if (row.error === null) {
      thumbnail.append(draw("image"), draw("image", { filter: "url(#colours)", opacity: 0.7 }));
      frame(thumbnail, row);
      thumbnail.row = row;
      seen.observe(thumbnail);
    }
    const [folder, name] = [nameOf(row).replace(/[^/]*$/, ""), nameOf(row).replace(/^.*\//s, "")];
    const path = make("button", { type: "button", className: "path" }, make("span", {}, folder), name);
    const bar = draw("svg", { class: "bar-of-score", viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" });
    bar.append(draw("rect", { width: 100 * (row.score ?? 0), height: 1 }));
    const size = row.width ? `${row.width} × ${row.height}` : "–";
    const cells = [
      make("td", {}, thumbnail),
      make("th", { scope: "row" }, path),
      make("td", { className: "number" }, ...(row.error === null ? [fixed(row.score), bar] : ["–"])),
      make("td", { className: "verdict" }),
      make("td", { className: "number" }, row.error === null ? String(row.regions.length) : "–"),
      ...(isNamed ? [make("td", { className: "defects" }, row.defects || "–")] : []),
      make("td", { className: "number" }, size),
    ];
    if (failed) cells.push(make("td", { className: "error" }, row.error ?? ""));
    const line = make("tr", {}, ...cells);
    line.row = row;
    line.addEventListener("click", () => open(row));
    setVerdict(line);
    return line;
  }

  function setVerdict(line) {
    const verdict = verdictOf(line.row);
    line.className = verdict;
    line.querySelector(".verdict").replaceChildren(make("span", { className: `chip ${verdict}`, textContent: verdict }));
  }

  function setThumbnail(thumbnail, isNear) {
    const [photograph, map] = thumbnail.children;
    if (!isNear) return [photograph, map].forEach((image) => image.removeAttribute("href"));
    setPicture(photograph, "photograph", thumbnail.row);
    setPicture(map, "map", thumbnail.row);
  }

  // Pictures are there only near what is seen: a thousand of them would not fit into memory
  const seen = new IntersectionObserver(
    (entries) => entries.forEach((entry) => setThumbnail(entry.target, entry.isIntersecting)), { rootMargin: "400px" },
  );
  new IntersectionObserver((entries) => { if (entries[0].isIntersecting) makeRows(CHUNK); }, { rootMargin: "1200px" })
    .observe(find("more"));

  for (const heading of document.querySelectorAll("th[data-key]")) {
    heading.firstElementChild.addEventListener("click", () => {
      const { key } = heading.dataset;
      // Numbers begin with the highest, texts with the first
      state.descending = key === state.key ? !state.descending : ["score", "regions", "size"].includes(key);
      state.key = key;
      list();
    });
  }
  find("search").addEventListener("input", (event) => { state.search = event.target.value; list(); });
  addEventListener("beforeprint", () => {
    makeRows(Infinity);
    [...document.querySelectorAll("tbody .thumbnail image:first-child")].slice(0, PRINTED_PICTURES)
      .forEach((image) => setThumbnail(image.parentElement, true));
  });

  // ------------------------------------------------------------------------------------------------ verdicts

  const KINDS = ["all", "anomalous", "normal", "unjudged", "unreadable"];
  const filters = Object.fromEntries(KINDS.map((kind) => {
    const number = make("b");
    const button = make("button", { type: "button", className: kind }, `${kind[0].toUpperCase()}${kind.slice(1)} `, number);
    button.addEventListener("click", () => { state.show = kind; judge(); list(); });
    find("filters").append(button);
    return [kind, { button, number }];
  }));

  /** Brings all that depends on the threshold up to date. */
  function judge() {
    const numbers = { all: rows.length, anomalous: 0, normal: 0, unjudged: 0, unreadable: 0 };
    for (const row of rows) numbers[verdictOf(row)] += 1;
    for (const [kind, { button, number }] of Object.entries(filters)) {
      number.textContent = count(numbers[kind]);
      button.hidden = kind !== state.show && (kind === "unjudged" || kind === "unreadable") && numbers[kind] === 0;
      button.setAttribute("aria-pressed", kind === state.show);
    }
    const isMoved = state.threshold !== recorded;
    find("threshold").value = state.threshold === null ? "" : Number(state.threshold.toFixed(4));
    find("reset").disabled = !isMoved;
    find("verdicts").textContent = sentence(numbers, isMoved);
    drawHistogram();
    if (state.show !== "all" || state.key === "verdict") list();
    else document.querySelectorAll("#rows tr").forEach(setVerdict);
  }

  function sentence(numbers, isMoved) {
    if (scores.length === 0) return "No photograph could be read.";
    const judged = numbers.anomalous + numbers.normal;
    if (judged === 0) return "No decision threshold is known: drag the line, or type one, to see how many would fail.";
    const share = `${(100 * numbers.anomalous / judged).toFixed(1)} %`;
    const was = recorded === null ? "; the run had none" : `; the run's was ${fixed(recorded)}`;
    return isMoved
      ? `${count(numbers.anomalous)} of ${count(judged)} would fail (${share})${was}.`
      : `${count(numbers.anomalous)} of ${count(judged)} fail (${share}). Drag the line to see how many would.`;
  }

  function setThreshold(value) {
    if (value === state.threshold) return;
    state.threshold = value;
    judge();
  }

  find("reset").addEventListener("click", () => setThreshold(recorded));
  find("threshold").addEventListener("change", (event) => {
    const value = event.target.valueAsNumber;
    setThreshold(Number.isNaN(value) ? recorded : clamp(value, 0, 1));
    judge(); // what was typed may be out of range
  });

  // ------------------------------------------------------------------------------------------------ the histogram

  const HEIGHT = 228, LEFT = 34, RIGHT = 12, TOP = 14, BOTTOM = 26;
  const known = [...scores, ...(recorded === null ? [] : [recorded])];
  const extent = known.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [1, 0]);
  const low = known.length ? Math.max(0, Math.floor(extent[0] * 20 - 0.2) / 20) : 0;
  const high = known.length ? Math.min(1, Math.ceil(extent[1] * 20 + 0.2) / 20) : 1;
  const bins = Array(BINS).fill(0);
  for (const score of scores) bins[Math.min(BINS - 1, Math.floor((score - low) / (high - low) * BINS))] += 1;
  const most = Math.max(1, ...bins);

  const histogram = find("histogram");
  histogram.setAttribute("height", HEIGHT);
  const bars = draw("g", { "aria-hidden": "true" });
  const line = draw("g", { id: "line", role: "slider", tabindex: 0, "aria-label": "Decision threshold", "aria-valuemin": low, "aria-valuemax": high });
  histogram.append(bars, line);

  const plotWidth = () => Math.max(1, histogram.clientWidth - LEFT - RIGHT);
  const toX = (score) => LEFT + (score - low) / (high - low) * plotWidth();

  function drawHistogram() {
    const base = HEIGHT - BOTTOM, tall = base - TOP, width = plotWidth() / BINS;
    bars.replaceChildren();
    for (const value of [...new Set([0, Math.round(most / 2), most])]) {
      const y = base - value / most * tall;
      bars.append(draw("line", { class: "grid", x1: LEFT, x2: LEFT + plotWidth(), y1: y, y2: y }));
      bars.append(draw("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, count(value)));
    }
    const step = [0.01, 0.02, 0.05, 0.1, 0.2].find((each) => (high - low) / each <= plotWidth() / 60) ?? 0.5;
    for (let tick = Math.ceil(low / step - 1e-9); tick * step <= high + 1e-9; tick += 1) {
      bars.append(draw("text", { x: toX(tick * step), y: HEIGHT - 8, "text-anchor": "middle" }, (tick * step).toFixed(2)));
    }
    bins.forEach((number, place) => {
      if (number === 0) return;
      const height = Math.max(2, number / most * tall);
      const middle = low + (place + 0.5) / BINS * (high - low);
      const kind = state.threshold === null ? "unjudged" : middle > state.threshold ? "anomalous" : "normal";
      bars.append(draw("rect", { class: kind, x: LEFT + place * width + 0.5, width: Math.max(1, width - 1), y: base - height, height }));
    });
    drawLine(base);
  }

  function drawLine(base) {
    const at = clamp(state.threshold ?? high, low, high);
    const x = toX(at);
    const text = state.threshold === null ? "no threshold" : fixed(state.threshold);
    line.setAttribute("class", state.threshold === null ? "unset" : "");
    line.setAttribute("aria-valuenow", at);
    line.setAttribute("aria-valuetext", text);
    line.replaceChildren(
      draw("rect", { class: "grip", x: x - 12, y: 0, width: 24, height: base }),
      draw("line", { x1: x, x2: x, y1: TOP - 4, y2: base }),
      draw("circle", { cx: x, cy: TOP - 4, r: 6 }),
    );
  }

  const toScore = (event) => {
    const x = event.clientX - histogram.getBoundingClientRect().left - LEFT;
    return Math.round(clamp(low + x / plotWidth() * (high - low), low, high) * 1000) / 1000;
  };
  histogram.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    line.focus({ preventScroll: true });
    histogram.setPointerCapture(event.pointerId);
    setThreshold(toScore(event));
  });
  histogram.addEventListener("pointermove", (event) => {
    if (histogram.hasPointerCapture(event.pointerId)) setThreshold(toScore(event));
  });
  line.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -0.005, ArrowDown: -0.005, ArrowRight: 0.005, ArrowUp: 0.005, PageDown: -0.05, PageUp: 0.05, Home: -1, End: 1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    setThreshold(Math.round(clamp((state.threshold ?? high) + steps[event.key], low, high) * 1e4) / 1e4);
  });
  new ResizeObserver(drawHistogram).observe(histogram);

  // ------------------------------------------------------------------------------------------------ the viewer

  const viewer = find("viewer");

  function open(row) {
    if (!viewer.open) viewer.showModal();
    show(row);
  }

  function show(row) {
    current = row;
    const place = listed.indexOf(row);
    const verdict = verdictOf(row);
    find("viewer-title").textContent = nameOf(row);
    find("viewer-place").textContent = `${count(place + 1)} of ${count(listed.length)}`;
    find("viewer-score").textContent = row.error === null ? `Score ${fixed(row.score)}` : "";
    find("viewer-verdict").className = `chip ${verdict}`;
    find("viewer-verdict").textContent = verdict;
    find("previous").disabled = place <= 0;
    find("next").disabled = place >= listed.length - 1;
    if (document.activeElement?.disabled) viewer.querySelector(".stage").focus();
    const hasPicture = find(`photograph-${row.number}`) !== null;
    find("missing").textContent = row.error ?? (hasPicture ? "" : "The run has kept no preview of this photograph.");
    find("stage").toggleAttribute("hidden", row.error !== null);
    find("stage").setAttribute("aria-label", `${nameOf(row)} under its anomaly map`);
    if (row.error === null) showPicture(row);
    find("regions").replaceChildren(...row.regions.map((region, number) => {
      const item = make("li", {}, make("b", { textContent: fixed(region.score) }),
        ...(region.defect === null ? [] : [make("span", { className: "defect" }, region.defect)]), ` ${count(region.area)} px`);
      item.addEventListener("pointerenter", () => highlight(number, true));
      item.addEventListener("pointerleave", () => highlight(number, false));
      return item;
    }));
    viewer.classList.toggle("without-regions", row.regions.length === 0);
  }

  function showPicture(row) {
    setPicture(find("photograph"), "photograph", row);
    setPicture(find("map"), "map", row);
    frame(find("stage"), row);
    find("outlines").replaceChildren(...row.regions.map(({ path }) => draw("path", { d: path })));
    find("boxes").replaceChildren(...row.regions.map(({ box: [x0, y0, x1, y1] }) =>
      draw("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0 })));
  }

  function highlight(number, isOn) {
    find("outlines").children[number]?.classList.toggle("on", isOn);
    find("boxes").children[number]?.classList.toggle("on", isOn);
  }

  function step(by) {
    const row = listed[listed.indexOf(current) + by];
    if (row !== undefined) show(row);
  }

  function applyControls() {
    find("map").setAttribute("opacity", find("opacity").value / 100);
    find("opacity-value").textContent = `${find("opacity").value} %`;
    find("outlines").setAttribute("visibility", find("outline").checked ? "visible" : "hidden");
    find("boxes").setAttribute("visibility", find("box").checked ? "visible" : "hidden");
  }

  let opacityBefore = 70;
  function toggleMap() {
    const value = Number(find("opacity").value);
    if (value > 0) opacityBefore = value;
    find("opacity").value = value > 0 ? 0 : opacityBefore;
  }

  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("close").addEventListener("click", () => viewer.close());
  for (const id of ["opacity", "outline", "box"]) find(id).addEventListener("input", applyControls);
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => {
    const shown = [...find("rows").children].find((each) => each.row === current);
    shown?.querySelector(".path").focus();
    find("photograph").removeAttribute("href");
    find("map").removeAttribute("href");
  });
  document.addEventListener("keydown", (event) => {
    if (!viewer.open || event.ctrlKey || event.altKey || event.metaKey) return;
    const isSlider = event.target === find("opacity");
    const key = event.key.toLowerCase();
    if (key === "arrowleft" && !isSlider) step(-1);
    else if (key === "arrowright" && !isSlider) step(1);
    else if (key === "m") toggleMap();
    else if (key === "o") find("outline").click();
    else if (key === "b") find("box").click();
    else return;
    event.preventDefault();
    applyControls();
  });

  applyControls();
  judge();
  list();
}
