"use strict";
// Charts and clicks of the report. Everything is in the page; nothing is requested (a served page asks its own server for its version).
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;
  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const escape = (text) => String(text).replace(/[&<>"']/g, (c) => "&#" + c.charCodeAt(0) + ";");
  const number = (value, digits = 4) => (value === null || value === undefined ? "" : Number(value.toPrecision(digits)).toLocaleString("en-US", { maximumSignificantDigits: digits }));
  const axisOf = (id) => data.axes.find((axis) => axis.id === id);
  /** A round number near ``value`` for a range of width ``span``. */
  const tidy = (value, span, way) => { const unit = Math.pow(10, Math.floor(Math.log10(span || Math.abs(value) || 1)) - 1); return Number((way(value / unit) * unit).toPrecision(12)); };
  const titled = (axis) => axis.label + (axis.unit ? ", " + axis.unit : "");
  const store = { get: (key) => { try { return sessionStorage.getItem(key); } catch { return null; } }, set: (key, value) => { try { sessionStorage.setItem(key, value); } catch { /* a page without storage */ } } };
  const charts = {};
  const state = { budget: null, walk: -1, moved: false };

  // -- theme ----------------------------------------------------------------------------------------------------------
  const themes = ["system", "light", "dark"];
  function setTheme(name) {
    if (name === "system") root.removeAttribute("data-theme"); else root.setAttribute("data-theme", name);
    $("theme").textContent = "Theme: " + name;
    store.set("theme", name);
    drawAll();
  }
  const base = () => ({
    animation: false,
    textStyle: { color: colour("ink"), fontFamily: "system-ui, sans-serif" },
    tooltip: { backgroundColor: colour("paper"), borderColor: colour("line"), textStyle: { color: colour("ink"), fontSize: 13 }, confine: true },
  });
  const axisStyle = () => ({
    axisLine: { lineStyle: { color: colour("faint") } }, axisLabel: { color: colour("soft-ink"), hideOverlap: true }, axisTick: { show: false },
    splitLine: { lineStyle: { color: colour("line") } }, nameTextStyle: { color: colour("soft-ink") },
  });

  // -- the rule of `autoslim pick`: within the limits, one standard error of the best metric and the expected drop, least product of costs --
  const better = data.metric.direction === "min" ? 1 : -1;
  const LIMITS = { ms: ["latency_ms", "latency_ms_high"], time_share: ["latency_ratio", "latency_ratio_high"], mb: ["size_bytes"], macs: ["macs"], memory_mb: ["peak_memory_bytes"] };
  function violations(row, limits) {
    const broken = {};
    for (const [name, bound] of Object.entries(limits)) {
      const [column, upper] = LIMITS[name];
      const value = name === "time_share" && row.label === "untouched" ? 1 : upper && row[upper] !== null ? row[upper] : row[column];
      if (value !== null && value !== undefined) broken[name] = bound > 0 ? value / bound - 1 : Number(value > 0);
    }
    if (data.max_drop !== null && row.metric_val !== null) {
      const lost = (row.metric_val - data.untouched.metric) * better;
      broken.max_drop = (lost - data.max_drop) / (data.max_drop > 0 ? data.max_drop : Math.max(0.01 * Math.abs(data.untouched.metric), 1e-9));
    }
    return broken;
  }
  function cost(row) {
    const ratios = { latency_ms: row.latency_ratio, throughput: row.latency_ratio, size_bytes: row.size_ratio };
    return data.objectives.filter((name) => name !== "metric").reduce((total, name) => total * (ratios[name] ?? (data.untouched[name] ? row[name] / data.untouched[name] : 1)), 1);
  }
  const expected = (row) => row.drop_expected ?? row.drop_val;
  /** ``further``: a limit of this page alone, {column, bound}, on a cost that the command line has no limit on. */
  function best(limits, further = null) {
    const good = data.points.filter((row) => !row.outside && Object.values(violations(row, limits)).every((amount) => amount <= 1e-9) && (!further || (row[further.column] ?? Infinity) <= further.bound * (1 + 1e-9)));
    if (!good.length) return null;
    const top = good.reduce((a, b) => (b.metric_val * better < a.metric_val * better ? b : a));
    const spread = top.metric_val_high === null ? 0 : (top.metric_val_high - top.metric_val_low) / (2 * 1.96);
    const near = good.filter((row) => (row.metric_val - top.metric_val) * better <= spread + 1e-12);
    const told = data.max_drop === null ? near : near.filter((row) => expected(row) <= data.max_drop + 1e-12);
    return told.length ? told.reduce((a, b) => (cost(b) < cost(a) ? b : a)) : near.reduce((a, b) => (expected(b) < expected(a) ? b : a));
  }
  /** The limit of an axis: one on the ratio is a share of the untouched time, as `--budget-ms 60%` is, and takes the place of one in ms. */
  const limitOf = (axis) => (axis.id === "latency_ratio" ? "time_share" : axis.limit);
  const inForce = (axis) => {
    const base = data.untouched.latency_ms, { ms, time_share: share } = data.budget;
    if (limitOf(axis) === "time_share") return share ?? (ms && ms / base);
    return axis.limit === "ms" ? ms ?? (share && share * base) : data.budget[axis.limit];
  };
  const withLimit = (axis, bound) => {
    const limits = { ...data.budget };
    if (axis.limit === "ms") { delete limits.ms; delete limits.time_share; }
    return { ...limits, [limitOf(axis)]: bound };
  };
  /** Value on the chart's axis -> bound of the limit, in the measured unit. */
  const toBound = (axis, value) => value / axis.factor;
  const fromBound = (axis, bound) => bound * axis.factor;
  const FLAGS = { ms: ["--budget-ms", 1, ""], time_share: ["--budget-ms", 0.01, "%"], mb: ["--budget-mb", 1e6, ""], macs: ["--budget-macs", 1, ""], memory_mb: ["--budget-memory-mb", 1e6, ""] };
  /** The command that answers as the page does: every limit that holds here, in plain digits. */
  const inCommand = (limits) => ["autoslim pick .", ...Object.entries(limits).map(([name, bound]) => `${FLAGS[name][0]} ${Number((bound / FLAGS[name][1]).toPrecision(12))}${FLAGS[name][2]}`), ...(data.max_drop === null ? [] : ["--max-drop " + data.max_drop])].join(" ");

  // -- the trade-off --------------------------------------------------------------------------------------------------
  const nameOf = (row) => row.label || row.key.slice(0, 8);
  const valueOf = (row, axis) => (row[axis.column] === null || row[axis.column] === undefined ? null : row[axis.column] * axis.factor);
  const boundOf = (row, axis, end) => { const v = row[axis.column + end]; return v === null || v === undefined ? null : v * axis.factor; };
  const verifiedKeys = new Set(data.points.map((row) => row.key));
  function tried(x, y) {
    const t = data.trials, left = t[x.trial], up = t[y.trial], ok = [], broken = [], rug = [];
    if (!left) return { ok, broken, rug };
    for (let i = 0; i < t.number.length; i++) {
      if (verifiedKeys.has(t.key[i]) || left[i] === null) continue;
      if (!up || up[i] === null) rug.push([left[i] * x.factor, null, i]);
      else (t.feasible[i] ? ok : broken).push([left[i] * x.factor, up[i] * y.factor, i]);
    }
    return { ok, broken, rug };
  }
  function trialText(i) {
    const t = data.trials, lines = ["<b>trial " + t.number[i] + "</b> &middot; " + ["done", "rejected", "failed", "running"][t.end[i]] + (t.words[t.rung[i]] ? " at " + escape(t.words[t.rung[i]]) : "")];
    lines.push(escape(t.words[t.summary[i]]));
    if (t.metric_val && t.metric_val[i] !== null) lines.push(escape(data.metric.name) + " " + number(t.metric_val[i]) + " (validation)");
    if (t.latency_ms && t.latency_ms[i] !== null) lines.push(number(t.latency_ms[i]) + " ms");
    if (t.size_bytes && t.size_bytes[i] !== null) lines.push(number(t.size_bytes[i] / 1000) + " kB");
    return "<div style='max-width:22rem;white-space:normal'>" + lines.join("<br>") + "</div>";
  }
  function pointText(row) {
    const interval = (low, high, digits) => (low === null || low === undefined ? "" : " <small>(" + number(low, digits) + " to " + number(high, digits) + ")</small>");
    return "<div style='max-width:22rem;white-space:normal'><b>" + escape(nameOf(row)) + "</b>" + (row.feasible ? "" : " &middot; a limit is broken") + "<br>" + escape(row.summary) +
      "<br>" + escape(data.metric.name) + " " + number(row.metric_test) + interval(row.metric_test_low, row.metric_test_high) + "<br>" + number(row.latency_ms) + " ms" +
      interval(row.latency_ms_low, row.latency_ms_high, 3) + "<br>" + number(row.size_bytes / 1000) + " kB<br><small>click for the card</small></div>";
  }
  function whiskers(params, api) {
    const at = (x, y) => api.coord([x, y]), shape = (a, b) => ({ type: "line", shape: { x1: a[0], y1: a[1], x2: b[0], y2: b[1] }, style: { stroke: params.context.colour ?? api.visual("color"), lineWidth: 1, opacity: 0.8 } });
    const [x, y, xl, xh, yl, yh] = [0, 1, 2, 3, 4, 5].map((i) => api.value(i)), children = [];
    if (!Number.isNaN(xl) && xl !== null) children.push(shape(at(xl, y), at(xh, y)));
    if (!Number.isNaN(yl) && yl !== null) children.push(shape(at(x, yl), at(x, yh)));
    return { type: "group", children };
  }
  function stepped(rows, x, y) {
    const worth = (row) => [valueOf(row, x) * (x.better === "min" ? 1 : -1), valueOf(row, y) * (y.better === "min" ? 1 : -1)];
    const kept = rows.filter((row) => !rows.some((other) => { const [a, b] = [worth(other), worth(row)]; return a[0] <= b[0] && a[1] <= b[1] && (a[0] < b[0] || a[1] < b[1]); }));
    return kept.map((row) => [valueOf(row, x), valueOf(row, y)]).sort((a, b) => a[0] - b[0]);
  }
  function drawPareto() {
    const x = axisOf($("x-axis").value), y = axisOf($("y-axis").value), log = $("log").checked;
    if (!x || !y) return;
    const known = data.points.filter((row) => valueOf(row, x) !== null && valueOf(row, y) !== null);
    const own = known.filter((row) => !row.label), rivals = known.filter((row) => row.label), others = $("tried").checked ? tried(x, y) : { ok: [], broken: [], rug: [] };
    const ys = [...known.flatMap((row) => [valueOf(row, y), boundOf(row, y, "_low"), boundOf(row, y, "_high")]), ...others.ok.map((p) => p[1]), ...others.broken.map((p) => p[1])].filter((v) => v !== null);
    const floor = ys.length ? ys.reduce((a, b) => Math.min(a, b)) : 0;
    const dot = (row) => ({ value: [valueOf(row, x), valueOf(row, y)], row, symbolSize: row.key === data.chosen ? 17 : 12,
      itemStyle: { opacity: row.feasible ? 1 : 0.45, borderColor: row.key === data.chosen ? colour("ink") : colour("paper"), borderWidth: row.key === data.chosen ? 2.5 : 1 } });
    const ends = (row) => [valueOf(row, x), valueOf(row, y), boundOf(row, x, "_low"), boundOf(row, x, "_high"), boundOf(row, y, "_low"), boundOf(row, y, "_high")];
    const bars = (rows, name) => ({ type: "custom", clip: true, renderItem: whiskers, data: rows.map(ends), itemStyle: { color: colour(name) }, silent: true, tooltip: { show: false }, z: 2 });
    const scaled = (axis, values) => log && axis.id !== "metric" && values.every((v) => v > 0);  // an accuracy has no use for it
    const xs = [...known.flatMap((row) => [valueOf(row, x), boundOf(row, x, "_low"), boundOf(row, x, "_high")]), ...others.ok.map((p) => p[0]), ...others.broken.map((p) => p[0]), ...others.rug.map((p) => p[0])].filter((v) => v !== null);
    state.span = budgetSpan(x);
    if (state.span) xs.push(...state.span);
    const range = (values, log) => {  // intervals and the budget line stay inside
      if (!values.length) return {};
      const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b)), pad = 0.04 * (high - low) || 0.04 * Math.abs(high) || 1;
      return log ? { min: low > 0 ? low / 1.15 : undefined, max: high * 1.2 } : { min: low >= 0 && low < 0.3 * high ? 0 : tidy(low - pad, high - low, Math.floor), max: tidy(high + pad, high - low, Math.ceil) };
    };
    const decades = { logBase: 2, axisLabel: { color: colour("soft-ink"), formatter: (v) => number(v, 3), showMinLabel: false, showMaxLabel: false, hideOverlap: true } };
    const series = [
      { name: "tried, within limits", type: "scatter", data: others.ok, symbolSize: 6, itemStyle: { color: colour("faint"), opacity: 0.75 }, z: 1 },
      { name: "tried, a limit broken", type: "scatter", data: others.broken, symbolSize: 6, symbol: "emptyCircle", itemStyle: { color: colour("bad"), opacity: 0.8 }, z: 1 },
      { name: "rejected unscored", type: "scatter", data: others.rug.map(([a, , i]) => [a, floor, i]), symbolSize: 7, symbol: "triangle", itemStyle: { color: colour("bad"), opacity: 0.5 }, z: 1 },
      { name: "front", type: "line", data: stepped(known.filter((row) => row.feasible && !row.outside), x, y), step: x.better === "min" ? "end" : "start", showSymbol: false, silent: true, lineStyle: { color: colour("own"), width: 1.2, opacity: 0.5 }, itemStyle: { color: colour("own") }, tooltip: { show: false }, z: 2 },
      bars(rivals, "rival"), bars(own, "own"),
      { name: "rivals", type: "scatter", data: rivals.map(dot), symbol: "rect", itemStyle: { color: colour("rival") }, z: 5,  // a halo keeps its name readable over intervals and points
        label: { show: true, formatter: (p) => nameOf(p.data.row), position: "bottom", distance: 7, color: colour("rival"), fontSize: 11, textBorderColor: colour("chart"), textBorderWidth: 3 }, labelLayout: { hideOverlap: true } },
      { name: "AutoSlim", type: "scatter", data: own.map(dot), itemStyle: { color: colour("own") }, z: 4 },
      { id: "best", type: "scatter", data: [], symbol: "circle", silent: true, tooltip: { show: false }, z: 6 },
      { id: "budget", type: "line", data: [], silent: true, z: 7 },
    ];
    const chart = charts.pareto;
    chart.setOption({
      ...base(), tooltip: { ...base().tooltip, trigger: "item", formatter: (p) => (p.data.row ? pointText(p.data.row) : trialText(p.data[2])) },
      legend: { top: 0, left: "center", type: "scroll", textStyle: { color: colour("soft-ink") }, itemWidth: 12, itemHeight: 9, data: ["AutoSlim", "rivals", "tried, within limits", "tried, a limit broken", ...(others.rug.length ? ["rejected unscored"] : [])] },
      grid: { left: 16, right: 24, top: 46, bottom: 34, containLabel: true },
      xAxis: { type: scaled(x, xs) ? "log" : "value", ...range(xs, scaled(x, xs)), name: titled(x), nameLocation: "middle", nameGap: 30, ...axisStyle(), ...(scaled(x, xs) ? decades : {}) },
      yAxis: { type: scaled(y, ys) ? "log" : "value", ...range(ys, scaled(y, ys)), name: titled(y), nameLocation: "end", ...axisStyle(), axisLabel: { color: colour("soft-ink"), showMinLabel: false, showMaxLabel: false }, nameTextStyle: { color: colour("soft-ink"), align: "left", padding: [0, 0, 0, -20] } },
      series,
    }, true);
    state.walkable = own.concat(rivals).sort((a, b) => valueOf(a, x) - valueOf(b, x));
    setUpBudget(x);
  }

  // -- the budget line ------------------------------------------------------------------------------------------------
  /** Whether verified points lie so far apart that an even scale would heap most of them at one end. */
  function spread(x) {
    const values = data.points.map((row) => valueOf(row, x)).filter((v) => v !== null && v > 0);
    return x.id !== "metric" && values.length > 2 && Math.max(...values) > 8 * Math.min(...values);
  }
  /** From where to where the line can be drawn: all verified points and their intervals with some air; null where an axis is no cost. */
  function budgetSpan(x) {
    const values = data.points.flatMap((row) => [valueOf(row, x), boundOf(row, x, "_high")]).filter((v) => v !== null && v > 0);
    return x.better === "min" && x.id !== "metric" && values.length ? [0.8 * Math.min(...values), 1.15 * Math.max(...values)] : null;
  }
  function setUpBudget(x) {
    const bound = x.limit && inForce(x);
    $("budget-box").hidden = !state.span;
    if (!state.span) return;
    setBudget(state.budget && state.budget.axis === x.id ? state.budget.value : bound ? fromBound(x, bound) : state.span[1], true);
  }
  const toSlider = (value) => Math.round(1000 * Math.log(value / state.span[0]) / Math.log(state.span[1] / state.span[0]));
  const fromSlider = (place) => state.span[0] * Math.pow(state.span[1] / state.span[0], place / 1000);
  function setBudget(value, moveSlider) {
    const x = axisOf($("x-axis").value), y = axisOf($("y-axis").value);
    value = Math.min(Math.max(value, state.span[0]), state.span[1]);
    state.budget = { axis: x.id, value };
    const bound = Number(toBound(x, value).toPrecision(6)), limits = x.limit ? withLimit(x, bound) : data.budget;
    const found = best(limits, x.limit ? null : { column: x.column, bound });
    if (moveSlider) $("budget").value = toSlider(value);
    $("budget-value").textContent = number(value, 3) + (x.unit ? " " + x.unit : " of untouched");
    $("budget").setAttribute("aria-valuetext", $("budget-value").textContent);
    const verdict = $("verdict");
    verdict.replaceChildren();
    verdict.dataset.key = found ? found.key : "";
    if (found) {
      const link = document.createElement("a");
      link.href = "#card-" + found.key;
      link.dataset.card = found.key;
      link.textContent = nameOf(found);
      verdict.append(link, ": " + number(found.latency_ms, 3) + " ms (" + number(found.latency_ratio, 3) + " of untouched), " + number(found.size_bytes / 1000, 3) + " kB, " + data.metric.name + " " + found.metric_test.toFixed(data.metric.places) +
        ", drop " + (found.drop_test >= 0 ? "+" : "") + found.drop_test.toFixed(data.metric.places));
    } else verdict.textContent = "No verified point is within this budget.";
    $("pick-command").textContent = x.limit ? inCommand(limits) : "";
    $("pick-note").textContent = x.limit ? beyond(x) : "The limits of the study hold too; the command autoslim pick has no limit on " + x.label + ".";
    const point = found && valueOf(found, x) !== null && valueOf(found, y) !== null ? [{ value: [valueOf(found, x), valueOf(found, y)] }] : [];
    charts.pareto.setOption({ series: [
      { id: "best", data: point, symbolSize: 24, itemStyle: { color: "transparent", borderColor: colour("good"), borderWidth: 2.5 } },
      { id: "budget", markLine: { silent: true, symbol: "none", animation: false, data: [{ xAxis: value }], lineStyle: { color: colour("good"), width: 2, type: "dashed" },
        label: { formatter: "budget " + number(value, 3), color: colour("good"), position: "insideEndTop", rotate: 0, distance: [4, -4] } } },
    ] });
  }
  /** What is said where the study's own limit lies where the line cannot go. */
  function beyond(x) {
    const bound = inForce(x), own = bound ? fromBound(x, bound) : 0;
    return own > state.span[1] ? " The study's own limit, " + number(own, 3) + (x.unit ? " " + x.unit : " of untouched") + ", lies beyond the chart: every verified point meets it." : "";
  }
  function wireDrag(chart) {
    const zr = chart.getZr();
    let dragging = false;
    const lineAt = () => (state.span && state.budget ? chart.convertToPixel({ xAxisIndex: 0 }, state.budget.value) : NaN);
    zr.on("mousedown", (event) => { dragging = Math.abs(event.offsetX - lineAt()) < 12; });
    zr.on("mousemove", (event) => {
      if (dragging) { state.moved = true; setBudget(chart.convertFromPixel({ xAxisIndex: 0 }, event.offsetX), true); event.stop && event.stop(); }
      else if (Math.abs(event.offsetX - lineAt()) < 6) zr.setCursorStyle("ew-resize");
    });
    zr.on("mouseup", () => { dragging = false; });
    zr.on("globalout", () => { dragging = false; });
  }

  // -- cards ----------------------------------------------------------------------------------------------------------
  function openCard(key) {
    const card = $("card-" + key), body = $("dialog-body");
    if (!card) return;
    const title = document.createElement("h2");
    title.style.marginTop = 0;
    title.textContent = card.querySelector("summary b").textContent;
    body.replaceChildren(title, card.querySelector(".card").cloneNode(true));
    show();
  }
  function openTrial(i) {
    const t = data.trials, body = $("dialog-body"), list = document.createElement("dl"), title = document.createElement("h2"), card = document.createElement("div");
    title.style.marginTop = 0;
    title.textContent = "Trial " + t.number[i];
    card.className = "card";
    const put = (name, value) => { if (value === "" || value === undefined) return; const dt = document.createElement("dt"), dd = document.createElement("dd"); dt.textContent = name; dd.textContent = value; list.append(dt, dd); };
    put("key", t.key[i]);
    put("end", ["done", "rejected", "failed", "running"][t.end[i]] + (t.words[t.rung[i]] ? " at " + t.words[t.rung[i]] : ""));
    put("what was done", t.words[t.summary[i]]);
    for (const axis of data.axes) if (axis.trial && t[axis.trial] && t[axis.trial][i] !== null) put(axis.label, number(t[axis.trial][i] * axis.factor) + (axis.unit ? " " + axis.unit : "") + (axis.id === "metric" ? " (validation)" : ""));
    put("verified", "no; figures of the search: one short timing, validation data");
    card.append(list);
    body.replaceChildren(title, card);
    show();
  }
  function show() { const dialog = $("dialog"); if (!dialog.open) dialog.showModal(); dialog.scrollTop = 0; }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-card]");
    if (link) { event.preventDefault(); openCard(link.dataset.card); }
    if (event.target === $("dialog")) $("dialog").close();
  });

  // -- the other charts -----------------------------------------------------------------------------------------------
  function drawParallel() {
    const t = data.trials, columns = data.axes.filter((axis) => axis.trial && t[axis.trial] && ["metric", "latency_ms", "size_kb", "macs"].includes(axis.id));
    const techniques = Object.keys(t.strength), rows = [];
    for (let i = 0; i < t.number.length; i++) {
      if (t.end[i] !== 0) continue;
      const values = [...columns.map((axis) => (t[axis.trial][i] === null ? null : t[axis.trial][i] * axis.factor)), ...techniques.map((name) => t.strength[name][i])];
      if (!values.includes(null)) rows.push({ value: values, ok: t.feasible[i], i });
    }
    const line = (kept, name, opacity, width) => ({ type: "parallel", data: kept.map((row) => row.value), lineStyle: { color: colour(name), opacity, width }, inactiveOpacity: 0.02, activeOpacity: 0.9, progressive: 2000 });
    const thin = Math.max(0.06, Math.min(0.5, 40 / Math.max(rows.length, 1)));
    const own = rows.filter((row) => verifiedKeys.has(t.key[row.i]));
    charts.parallel.setOption({
      ...base(), parallel: { left: 50, right: 70, top: 46, bottom: 24, parallelAxisDefault: { nameLocation: "end", nameGap: 16, axisLine: { lineStyle: { color: colour("faint") } }, axisLabel: { color: colour("ink"), textBorderColor: colour("chart"), textBorderWidth: 3, hideOverlap: true }, nameTextStyle: { color: colour("ink"), fontSize: 11 }, axisTick: { show: false }, areaSelectStyle: { color: colour("own"), opacity: 0.2, borderColor: colour("own") } } },
      parallelAxis: [...columns.map((axis, dim) => ({ dim, name: axis.unit ? axis.label.replace("multiply-accumulates", "MACs").replace("size of the file", "size") + ", " + axis.unit : axis.label, scale: true, inverse: axis.better === "min", nameLocation: axis.better === "min" ? "start" : "end" })), ...techniques.map((name, i) => ({ dim: columns.length + i, name, min: 0, max: 1 }))],
      series: rows.length ? [line(rows.filter((row) => !row.ok), "bad", thin, 1), line(rows.filter((row) => row.ok), "faint", thin, 1), line(own, "own", 0.9, 1.8)] : [],
    }, true);
  }
  function drawHistory() {
    const timed = $("history-axis").value === "seconds", places = timed ? data.history_seconds : data.history.map((_, i) => i + 1);
    charts.history.setOption({ ...base(), tooltip: { ...base().tooltip, trigger: "axis" }, grid: { left: 8, right: 16, top: 16, bottom: 30, containLabel: true },
      xAxis: { type: "value", name: timed ? "seconds of candidates, all workers" : "evaluations", nameLocation: "middle", nameGap: 28, max: places.at(-1) ?? 1, ...axisStyle(), splitLine: { show: false } }, yAxis: { type: "value", min: 0, ...axisStyle() },
      series: [{ name: "hypervolume", type: "line", step: "end", showSymbol: false, sampling: "lttb", data: data.history.map((v, i) => [places[i], v]), lineStyle: { color: colour("own"), width: 1.8 }, itemStyle: { color: colour("own") }, areaStyle: { color: colour("own"), opacity: 0.08 } }] }, true);
  }
  function drawForecast() {
    const pairs = (data.forecasts[$("forecast").value] || []).filter((pair) => pair[0] > 0 && pair[1] > 0), flat = pairs.flat();
    const low = flat.reduce((a, b) => Math.min(a, b), Infinity), high = flat.reduce((a, b) => Math.max(a, b), -Infinity);
    charts.forecast.setOption({ ...base(), tooltip: { ...base().tooltip, formatter: (p) => "predicted " + number(p.value[0]) + "<br>measured " + number(p.value[1]) }, grid: { left: 8, right: 16, top: 30, bottom: 30, containLabel: true },
      xAxis: { type: "log", name: "predicted", nameLocation: "middle", nameGap: 28, min: low, max: high, ...axisStyle(), axisLabel: { color: colour("soft-ink"), formatter: (v) => number(v, 2), hideOverlap: true } }, yAxis: { type: "log", name: "measured", min: low, max: high, ...axisStyle(), nameTextStyle: { color: colour("soft-ink"), align: "left" }, axisLabel: { color: colour("soft-ink"), formatter: (v) => number(v, 2) } },
      series: pairs.length ? [{ type: "line", data: [[low, low], [high, high]], showSymbol: false, silent: true, lineStyle: { color: colour("faint"), width: 1 } }, { type: "scatter", data: pairs, symbolSize: 7, itemStyle: { color: colour("own"), opacity: 0.7 } }] : [] }, true);
  }
  const drawings = { pareto: drawPareto, parallel: drawParallel, history: drawHistory, forecast: drawForecast };
  function drawAll() { for (const name of Object.keys(charts)) drawings[name](); }
  function begin(name) {
    if (charts[name]) return;
    charts[name] = echarts.init($("chart-" + name), null, { renderer: "canvas" });
    drawings[name]();
  }

  // -- tables that sort -------------------------------------------------------------------------------------------------
  const sorts = [];
  for (const table of document.querySelectorAll("table.sortable")) {
    table.querySelectorAll("thead th").forEach((head, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        sort(head.getAttribute("aria-sort") === "ascending");
      });
      const sort = (down) => {
        const rows = [...table.tBodies[0].rows];
        const key = (row) => { const cell = row.cells[place], raw = cell.dataset.v ?? cell.textContent.trim(); return raw !== "" && !Number.isNaN(Number(raw)) ? Number(raw) : raw; };
        rows.sort((a, b) => { const [p, q] = [key(a), key(b)]; return (typeof p === "number" && typeof q === "number" ? p - q : String(p).localeCompare(String(q))) * (down ? -1 : 1); });
        table.tBodies[0].append(...rows);
        table.querySelectorAll("th").forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
      };
      sorts.push({ head, sort });
    });
  }

  // -- start ------------------------------------------------------------------------------------------------------------
  if (axisOf($("x-axis").value)) $("log").checked = spread(axisOf($("x-axis").value));
  begin("pareto");
  wireDrag(charts.pareto);
  charts.pareto.on("click", (event) => { if (event.data && event.data.row) openCard(event.data.row.key); else if (event.seriesType === "scatter" && Array.isArray(event.data)) openTrial(event.data[2]); });
  for (const id of ["x-axis", "y-axis", "log", "tried"]) {
    const kept = store.get(data.study + id);
    if (kept !== null) { if ($(id).type === "checkbox") $(id).checked = kept === "true"; else if (axisOf(kept)) $(id).value = kept; }
    $(id).addEventListener("change", () => { store.set(data.study + id, $(id).type === "checkbox" ? $(id).checked : $(id).value); drawPareto(); });
  }
  $("budget").addEventListener("input", () => { state.moved = true; setBudget(fromSlider(Number($("budget").value)), false); });
  $("forecast").addEventListener("change", drawForecast);
  $("history-axis").addEventListener("change", () => { begin("history"); drawHistory(); });
  $("theme").addEventListener("click", () => setTheme(themes[(themes.indexOf(store.get("theme") || "system") + 1) % 3]));
  $("chart-pareto").addEventListener("keydown", (event) => {
    const walkable = state.walkable || [], step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Enter" && walkable[state.walk]) { openCard(walkable[state.walk].key); event.preventDefault(); return; }
    if (!step || !walkable.length) return;
    event.preventDefault();
    state.walk = (state.walk + step + walkable.length) % walkable.length;
    const row = walkable[state.walk], series = charts.pareto.getOption().series, name = row.label ? "rivals" : "AutoSlim";
    const place = series.findIndex((one) => one.name === name);
    charts.pareto.dispatchAction({ type: "showTip", seriesIndex: place, dataIndex: series[place].data.findIndex((one) => one.row.key === row.key) });
    $("walk").textContent = nameOf(row) + ": " + data.metric.name + " " + number(row.metric_test) + ", " + number(row.latency_ms, 3) + " ms, " + number(row.size_bytes / 1000, 3) + " kB. Enter opens its card.";
  });
  const watcher = new IntersectionObserver((seen) => { for (const one of seen) if (one.isIntersecting) { begin(one.target.id.slice(6)); watcher.unobserve(one.target); } }, { rootMargin: "300px" });
  for (const name of ["parallel", "history", "forecast"]) watcher.observe($("chart-" + name));
  addEventListener("resize", () => { for (const chart of Object.values(charts)) chart.resize(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => { for (const name of Object.keys(drawings)) begin(name); root.setAttribute("data-theme", "light"); drawAll(); });
  addEventListener("afterprint", () => setTheme(store.get("theme") || "system"));
  setTheme(store.get("theme") || "system");
  window.autoslim = { data, best, violations, setBudget, charts, drawPareto };

  // -- a served page keeps itself up to date, and its reader's place, line, order and cards through it -------------------------
  const opened = () => Object.fromEntries([...document.querySelectorAll("details[id]")].map((one) => [one.id, one.open]));
  function remember() {
    store.set("reader" + data.study, JSON.stringify({ scroll: scrollY, budget: state.moved ? state.budget : null, opened: opened(),
      sorted: sorts.flatMap((one, place) => (one.head.getAttribute("aria-sort") === "none" ? [] : [[place, one.head.getAttribute("aria-sort") === "descending"]])) }));
  }
  function recall() {
    const kept = JSON.parse(store.get("reader" + data.study) || "null");
    if (!kept) return;
    for (const [place, down] of kept.sorted) if (sorts[place]) sorts[place].sort(down);
    for (const [id, open] of Object.entries(kept.opened)) if ($(id)) $(id).open = open;
    if (kept.budget && state.span && kept.budget.axis === $("x-axis").value) { state.moved = true; setBudget(kept.budget.value, true); }
    scrollTo(0, kept.scroll);
  }
  if (data.live) {
    recall();
    addEventListener("pagehide", remember);
    setInterval(async () => {
      try {
        const found = await (await fetch("version", { cache: "no-store" })).text();
        if (found && found !== data.live && !$("dialog").open) location.reload();
      } catch { /* the server has ended; the page stays */ }
    }, 2000);
  }
})();
