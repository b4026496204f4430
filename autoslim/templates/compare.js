"use strict";
// The chart of a comparison: every study in its colour, 95 % intervals, the front of both axes as a line, points of the joint front large.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent), root = document.documentElement, $ = (id) => document.getElementById(id);
  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const escape = (text) => String(text).replace(/[&<>"']/g, (c) => "&#" + c.charCodeAt(0) + ";");
  const palette = () => [colour("own"), colour("rival"), colour("bad"), colour("good"), "#7a5bb5", "#8a6d4d", "#4c78c9", "#b0568f"];
  const shapes = ["circle", "rect", "triangle", "diamond", "pin", "roundRect", "arrow", "circle"];
  const chart = echarts.init($("chart"));
  /** The 95 % intervals of a point, as lines: [x, y, low x, high x, low y, high y], not known is NaN. */
  function whiskers(params, api) {
    const line = (a, b) => ({ type: "line", shape: { x1: a[0], y1: a[1], x2: b[0], y2: b[1] }, style: { stroke: api.visual("color"), lineWidth: 1, opacity: 0.6 } });
    const [x, y, left, right, low, high] = [0, 1, 2, 3, 4, 5].map((i) => api.value(i)), children = [];
    if (left !== null && !Number.isNaN(left)) children.push(line(api.coord([left, y]), api.coord([right, y])));
    if (low !== null && !Number.isNaN(low)) children.push(line(api.coord([x, low]), api.coord([x, high])));
    return { type: "group", children };
  }
  /** What no point of any study beats in this cost and the metric, [cost, metric] from the cheapest on. */
  function stepped(cost) {
    const sign = data.metric.direction === "min" ? 1 : -1, rows = data.studies.flatMap((study) => study.points).sort((a, b) => a[cost] - b[cost] || (a.metric_test - b.metric_test) * sign), kept = [];
    for (const row of rows) if (!kept.length || row.metric_test * sign < kept.at(-1)[1] * sign) kept.push([row[cost], row.metric_test]);
    return kept;
  }
  function draw() {
    const cost = $("cost").value, soft = { color: colour("soft-ink") }, grid = { lineStyle: { color: colour("line") } };
    chart.setOption({
      animation: false, textStyle: { color: colour("ink") }, legend: { top: 0, textStyle: soft }, grid: { left: 16, right: 24, top: 46, bottom: 34, containLabel: true },
      tooltip: { confine: true, backgroundColor: colour("paper"), borderColor: colour("line"), textStyle: { color: colour("ink") }, formatter: (p) => "<b>" + escape(p.seriesName) + " " + escape(p.data.row.label || p.data.row.key.slice(0, 8)) + "</b><br>" + escape(p.data.row.summary) + "<br>" + escape(data.metric.name) + " " + p.data.row.metric_test + "<br>" + p.data.row.latency_ms + " ms" },
      xAxis: { type: "value", scale: true, name: cost === "latency_ratio" ? "time, ratio to untouched" : "size, ratio to untouched", nameLocation: "middle", nameGap: 30, axisLabel: soft, splitLine: grid },
      yAxis: { type: "value", scale: true, name: data.metric.name, axisLabel: soft, splitLine: grid, nameTextStyle: { align: "left" } },
      series: [...data.studies.map((study, i) => ({ name: study.name, type: "scatter", symbol: shapes[i % shapes.length], itemStyle: { color: palette()[i % 8] },
        data: study.points.map((row) => ({ value: [row[cost], row.metric_test], row, symbolSize: row.front ? 14 : 9, itemStyle: { color: palette()[i % 8], opacity: row.front ? 1 : 0.4 } })) })),
        ...data.studies.map((study, i) => ({ id: "intervals" + i, name: study.name, type: "custom", clip: true, silent: true, renderItem: whiskers, itemStyle: { color: palette()[i % 8] }, tooltip: { show: false }, z: 1,
          data: study.points.map((row) => [row[cost], row.metric_test, row[cost + "_low"] ?? null, row[cost + "_high"] ?? null, row.metric_test_low, row.metric_test_high]) })),
        { id: "front", type: "line", step: "end", showSymbol: false, silent: true, tooltip: { show: false }, z: 1, data: stepped(cost), lineStyle: { color: colour("ink"), width: 1.2, opacity: 0.6, type: "dashed" } }],
    }, true);
  }
  const themes = ["system", "light", "dark"];
  let theme = 0;
  $("theme").addEventListener("click", () => { theme = (theme + 1) % 3; $("theme").textContent = "Theme: " + themes[theme]; themed(); });
  $("cost").addEventListener("change", draw);
  addEventListener("resize", () => chart.resize());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  const themed = () => { if (theme) root.setAttribute("data-theme", themes[theme]); else root.removeAttribute("data-theme"); draw(); };
  addEventListener("beforeprint", () => { root.setAttribute("data-theme", "light"); draw(); });
  addEventListener("afterprint", themed);
  window.autoslim = { data, chart, stepped };
  draw();
})();
