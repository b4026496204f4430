"use strict";
// The chart of a comparison: every study in its colour, the joint front filled.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent), root = document.documentElement, $ = (id) => document.getElementById(id);
  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const escape = (text) => String(text).replace(/[&<>"']/g, (c) => "&#" + c.charCodeAt(0) + ";");
  const palette = () => [colour("own"), colour("rival"), colour("bad"), colour("good"), "#7a5bb5", "#8a6d4d", "#4c78c9", "#b0568f"];
  const shapes = ["circle", "rect", "triangle", "diamond", "pin", "roundRect", "arrow", "circle"];
  const chart = echarts.init($("chart"));
  function draw() {
    const cost = $("cost").value, soft = { color: colour("soft-ink") }, grid = { lineStyle: { color: colour("line") } };
    chart.setOption({
      animation: false, textStyle: { color: colour("ink") }, legend: { top: 0, textStyle: soft }, grid: { left: 16, right: 24, top: 46, bottom: 34, containLabel: true },
      tooltip: { confine: true, backgroundColor: colour("paper"), borderColor: colour("line"), textStyle: { color: colour("ink") }, formatter: (p) => "<b>" + escape(p.seriesName) + " " + escape(p.data.row.label || p.data.row.key.slice(0, 8)) + "</b><br>" + escape(p.data.row.summary) + "<br>" + escape(data.metric.name) + " " + p.data.row.metric_test + "<br>" + p.data.row.latency_ms + " ms" },
      xAxis: { type: "value", scale: true, name: cost === "latency_ratio" ? "time, ratio to untouched" : "size, ratio to untouched", nameLocation: "middle", nameGap: 30, axisLabel: soft, splitLine: grid },
      yAxis: { type: "value", scale: true, name: data.metric.name, axisLabel: soft, splitLine: grid, nameTextStyle: { align: "left" } },
      series: data.studies.map((study, i) => ({ name: study.name, type: "scatter", symbol: shapes[i % shapes.length], itemStyle: { color: palette()[i % 8] },
        data: study.points.map((row) => ({ value: [row[cost], row.metric_test], row, symbolSize: row.front ? 14 : 9, itemStyle: { color: palette()[i % 8], opacity: row.front ? 1 : 0.4 } })) })),
    }, true);
  }
  const themes = ["system", "light", "dark"];
  let theme = 0;
  $("theme").addEventListener("click", () => { theme = (theme + 1) % 3; if (theme) root.setAttribute("data-theme", themes[theme]); else root.removeAttribute("data-theme"); $("theme").textContent = "Theme: " + themes[theme]; draw(); });
  $("cost").addEventListener("change", draw);
  addEventListener("resize", () => chart.resize());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  window.autoslim = { data, chart };
  draw();
})();
