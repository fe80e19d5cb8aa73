(function () {
  "use strict";
  var figures = JSON.parse(document.getElementById("figures").textContent);
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  function theme(layout) {
    var style = getComputedStyle(document.documentElement);
    var ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
    var themed = JSON.parse(JSON.stringify(layout));
    themed.paper_bgcolor = themed.plot_bgcolor = "rgba(0,0,0,0)";
    themed.font = { color: ink, size: 12, family: getComputedStyle(document.body).fontFamily };
    themed.hoverlabel = { bgcolor: style.getPropertyValue("--panel").trim(), font: { color: ink }, bordercolor: line };
    themed.modebar = {
      bgcolor: "rgba(0,0,0,0)", color: style.getPropertyValue("--line").trim(),
      activecolor: style.getPropertyValue("--soft").trim()
    };
    ["xaxis", "yaxis"].forEach(function (axis) {
      themed[axis].gridcolor = line;
      themed[axis].linecolor = line;
    });
    if (window.innerWidth < 800) { themed.legend = { orientation: "h", x: 0, y: -0.25, yanchor: "top" }; }
    return themed;
  }
  function draw() {
    Object.keys(figures).forEach(function (name) {
      var place = document.getElementById("plot-" + name);
      var options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
      if (place) { Plotly.react(place, figures[name].data, theme(figures[name].layout), options); }
    });
  }
  draw();
  dark.addEventListener("change", draw);
})();
