(function () {
  "use strict";
  var root = document.documentElement;
  var figures = JSON.parse(document.getElementById("figures").textContent);
  var system = window.matchMedia("(prefers-color-scheme: dark)");
  var printing = false;

  // ---- theme

  function isDark() { return !printing && (root.dataset.theme ? root.dataset.theme === "dark" : system.matches); }

  function nameTheme() {
    var button = document.getElementById("theme");
    button.hidden = false;
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", "Switch to the " + (isDark() ? "light" : "dark") + " theme");
  }

  document.getElementById("theme").addEventListener("click", function () {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("dyno-theme", root.dataset.theme); } catch (refused) { root.dataset.remembers = "no"; }
    nameTheme();
    drawAll();
  });
  system.addEventListener("change", function () { nameTheme(); drawAll(); });

  // ---- figures: colours are names like "@e0" or "@soft/0.2", resolved from page.css

  function coloured(value, style) {
    if (Array.isArray(value)) { return value.map(function (item) { return coloured(item, style); }); }
    if (value && typeof value === "object") {
      var made = {};
      Object.keys(value).forEach(function (key) { made[key] = coloured(value[key], style); });
      return made;
    }
    if (typeof value !== "string" || value.indexOf("@") < 0) { return value; }
    return value.replace(/@([a-z]+[0-9]?)(?:\/([0-9.]+))?/g, function (whole, name, alpha) {
      var hex = style.getPropertyValue("--" + name).trim();
      if (!hex) { return whole; }
      if (!alpha) { return hex; }
      var parts = [1, 3, 5].map(function (at) { return parseInt(hex.slice(at, at + 2), 16); });
      return "rgba(" + parts.join(",") + "," + alpha + ")";
    });
  }

  function themed(layout, width) {
    var style = getComputedStyle(root);
    var made = coloured(layout, style);
    var ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
    made.paper_bgcolor = made.plot_bgcolor = "rgba(0,0,0,0)";
    made.font = { color: ink, size: 12, family: getComputedStyle(document.body).fontFamily };
    made.hoverlabel = { bgcolor: style.getPropertyValue("--panel").trim(), font: { color: ink, size: 12 }, bordercolor: line, align: "left" };
    made.modebar = { bgcolor: "rgba(0,0,0,0)", color: style.getPropertyValue("--soft").trim(), activecolor: ink };
    Object.keys(made).forEach(function (axis) {
      if (!/^[xy]axis/.test(axis)) { return; }
      made[axis].gridcolor = line;
      made[axis].linecolor = line;
    });
    if (width) { made.width = width; made.autosize = false; }
    return made;
  }

  var options = {
    responsive: true, displaylogo: false, displayModeBar: "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]]
  };

  function draw(name) {
    var place = document.getElementById("plot-" + name);
    if (!place) { return; }
    var figure = figures[name];
    if (figure.front) { figure = front(figure.front); }
    if (figure.choices) { figure = figure.choices[figure.chosen || 0]; }
    var style = getComputedStyle(root);
    var layout = themed(figure.layout, printing ? 940 : 0);
    var data = coloured(figure.data, style);
    if (place.clientWidth < 560) { data = narrowed(layout, data); }
    Plotly.react(place, data, layout, options);
  }

  // On a phone a column of names stands below the plot, for the lines that are drawn, and long names of bars are cut;
  // tapping tells the whole.
  function narrowed(layout, data) {
    Object.keys(layout).forEach(function (axis) { if (/^xaxis/.test(axis)) { layout[axis].nticks = 6; } });
    if (layout.yaxis && layout.yaxis.type === "category") {
      var names = [];
      data.forEach(function (one) { one.y.forEach(function (name) { if (names.indexOf(name) < 0) { names.push(name); } }); });
      layout.yaxis.tickmode = "array";
      layout.yaxis.tickvals = names;
      layout.yaxis.ticktext = names.map(function (name) { return name.length > 20 ? name.slice(0, 19) + "…" : name; });
    }
    if (!layout.legend || layout.legend.orientation !== "v") { return data; }
    data = data.filter(function (one) { return one.visible !== "legendonly"; });
    var named = data.filter(function (one) { return one.showlegend !== false; }).length;
    layout.legend = { orientation: "h", x: 0, y: -0.2, yanchor: "top", font: { size: 11 }, entrywidth: 1, entrywidthmode: "fraction" };
    layout.height += 20 * named;
    return data;
  }

  function drawAll() { if (window.Plotly) { Object.keys(figures).forEach(draw); } }

  function chooser(words, labels, chosen, change) {
    var label = document.createElement("label");
    label.textContent = words + " ";
    var select = document.createElement("select");
    labels.forEach(function (one, index) {
      var option = document.createElement("option");
      option.value = one.value === undefined ? String(index) : one.value;
      option.textContent = one.text === undefined ? one : one.text;
      select.appendChild(option);
    });
    select.value = chosen;
    select.addEventListener("change", function () { change(select.value); });
    label.appendChild(select);
    return label;
  }

  function choosers() {
    Object.keys(figures).forEach(function (name) {
      var figure = figures[name], holder = document.querySelector("#figure-" + name + " .choose");
      if (!holder) { return; }
      if (figure.choices && figure.choices.length > 1) {
        var names = figure.choices.map(function (one) { return one.name; });
        holder.appendChild(chooser({overlay: "Candidate", levels: "Show"}[name] || "Trial", names, "0", function (value) {
          figure.chosen = Number(value);
          draw(name);
        }));
      } else if (figure.choices) {
        holder.textContent = figure.choices[0].name;
      }
      if (figure.front) {
        var named = function (key) { return { value: key, text: figure.front.metrics[key].title }; };
        holder.appendChild(chooser("Upright", figure.front.up.map(named), figure.front.y, function (value) {
          figure.front.y = value;
          draw(name);
        }));
        holder.appendChild(chooser("Across", figure.front.across.map(named), figure.front.x, function (value) {
          figure.front.x = value;
          draw(name);
        }));
        var hint = document.createElement("span");
        hint.className = "soft";
        hint.id = "front-hint";
        holder.appendChild(hint);
      }
    });
  }

  // ---- the trade-off: points, intervals and the front for the two metrics that are asked for

  function front(given) {
    var x = given.metrics[given.x], y = given.metrics[given.y];
    var shown = given.points.filter(function (point) { return point.m[given.x] && point.m[given.y]; });
    var engines = [];
    shown.forEach(function (point) { if (engines.indexOf(point.engine) < 0) { engines.push(point.engine); } });
    engines.sort();
    var edge = frontier(shown, given, x.smaller, y.smaller);
    var data = [{
      type: "scatter", mode: "lines", name: "not beaten", hoverinfo: "skip",
      x: edge.map(function (point) { return point.m[given.x][0]; }),
      y: edge.map(function (point) { return point.m[given.y][0]; }),
      line: { color: "@soft", width: 1.5, dash: "dot" }
    }];
    engines.forEach(function (engine) {
      data.push(cloud(engine, shown.filter(function (point) { return point.engine === engine; }), given));
    });
    shown.filter(function (point) { return point.chosen; }).forEach(function (point) {
      data.push({
        type: "scatter", mode: "markers", name: "recommended", hoverinfo: "skip",
        x: [point.m[given.x][0]], y: [point.m[given.y][0]],
        marker: { symbol: "circle-open", size: 24, color: "@chosen", line: { width: 3, color: "@chosen" } }
      });
    });
    var hint = document.getElementById("front-hint");
    if (hint) { hint.textContent = "Better: " + (y.smaller ? "down" : "up") + " and to the " + (x.smaller ? "left" : "right") + "."; }
    return { data: data, layout: frontLayout(shown, given) };
  }

  function frontLayout(shown, given) {
    return {
      xaxis: axis(shown, given.x, given.metrics[given.x].title), yaxis: axis(shown, given.y, given.metrics[given.y].title),
      margin: { l: 60, r: 16, t: 12, b: 48 }, height: 460, hovermode: "closest",
      legend: { orientation: "h", x: 0, y: -0.16, yanchor: "top" }
    };
  }

  function cloud(engine, points, given) {
    function bars(key) {
      return {
        type: "data", symmetric: false, thickness: 1, width: 3,
        array: points.map(function (point) { var m = point.m[key]; return m[2] === null ? 0 : Math.max(0, m[2] - m[0]); }),
        arrayminus: points.map(function (point) { var m = point.m[key]; return m[1] === null ? 0 : Math.max(0, m[0] - m[1]); })
      };
    }
    return {
      type: "scatter", mode: "markers", name: engine,
      x: points.map(function (point) { return point.m[given.x][0]; }),
      y: points.map(function (point) { return point.m[given.y][0]; }),
      error_x: bars(given.x), error_y: bars(given.y),
      text: points.map(function (point) { return point.hover; }), hovertemplate: "%{text}<extra></extra>",
      customdata: points.map(function (point) { return point.trial; }),
      marker: {
        color: points[0].colour, size: 11,
        symbol: points.map(function (point) { return point.symbol + (point.feasible ? "" : "-open"); }),
        line: { width: points.map(function (point) { return point.feasible ? 0 : 2; }), color: points[0].colour }
      }
    };
  }

  function frontier(points, given, xSmaller, ySmaller) {
    function cost(point, key, smaller) { return smaller ? point.m[key][0] : -point.m[key][0]; }
    var feasible = points.filter(function (point) { return point.feasible; });
    var sorted = feasible.slice().sort(function (a, b) {
      return cost(a, given.x, xSmaller) - cost(b, given.x, xSmaller) || cost(a, given.y, ySmaller) - cost(b, given.y, ySmaller);
    });
    var best = Infinity;
    return sorted.filter(function (point) {
      var mine = cost(point, given.y, ySmaller);
      if (mine >= best) { return false; }
      best = mine;
      return true;
    });
  }

  function axis(points, key, title) {
    var values = points.map(function (point) { return point.m[key][0]; });
    var low = Math.min.apply(null, values), high = Math.max.apply(null, values);
    var made = { title: { text: title }, zeroline: false, automargin: true };
    if (low > 0 && high / low >= 20) {
      made.type = "log";
      made.tickmode = "array";
      made.tickvals = [];
      for (var decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade += 1) {
        [1, 2, 5].forEach(function (step) { made.tickvals.push(Number((step * Math.pow(10, decade)).toPrecision(3))); });
      }
    } else { made.rangemode = "tozero"; }
    return made;
  }

  // ---- tables: sorted by click or by key, filtered by words; of many rows only the first lie in the page

  var ROWS = 200, tables = [];

  function sortValue(row, index, numeric) {
    var cell = row.cells[index];
    if (cell.dataset.sort !== undefined) { return Number(cell.dataset.sort); }
    return numeric ? NaN : cell.textContent.trim().toLowerCase();
  }

  function sortBy(one, index) {
    var heads = Array.from(one.table.tHead.rows[0].cells), head = heads[index];
    var down = head.getAttribute("aria-sort") === "ascending";
    var numeric = head.classList.contains("num");
    var keyed = one.rows.map(function (row) { return { row: row, key: sortValue(row, index, numeric) }; });
    keyed.sort(function (a, b) {
      if (numeric && (isNaN(a.key) || isNaN(b.key))) { return isNaN(a.key) - isNaN(b.key); }  // absent values stay last
      var order = a.key < b.key ? -1 : a.key > b.key ? 1 : 0;
      return down ? -order : order;
    });
    heads.forEach(function (other) { other.setAttribute("aria-sort", "none"); });
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    one.rows = keyed.map(function (both) { return both.row; });
    show(one);
  }

  function fits(one, row) {
    if (!one.words.length) { return true; }
    if (row.told === undefined) { row.told = row.textContent.toLowerCase(); }
    return one.words.every(function (word) { return row.told.indexOf(word) >= 0; });
  }

  function show(one) {
    var body = one.table.tBodies[0], lying = document.createDocumentFragment();
    var found = one.rows.filter(function (row) { return fits(one, row); });
    found.slice(0, one.most).forEach(function (row) { lying.appendChild(row); });
    body.textContent = "";
    body.appendChild(lying);
    one.found = found.length;
    if (one.more) {
      one.more.hidden = found.length <= one.most;
      one.more.firstChild.textContent = "The first " + one.most + " of " + found.length + " rows, as sorted.";
    }
  }

  function pager(one) {
    var more = document.createElement("p"), told = document.createElement("span");
    more.className = "more";
    told.setAttribute("aria-live", "polite");
    more.appendChild(told);
    [["Show " + ROWS + " more", function () { return one.most + ROWS; }],
      ["Show all", function () { return one.rows.length; }]].forEach(function (pair) {
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = pair[0];
      button.addEventListener("click", function () { one.most = pair[1](); show(one); });
      more.appendChild(button);
    });
    var holder = one.table.closest(".scroll") || one.table;
    holder.parentNode.insertBefore(more, holder.nextSibling);
    return more;
  }

  Array.from(document.querySelectorAll("table.sortable")).forEach(function (table) {
    var one = { table: table, rows: Array.from(table.tBodies[0].rows), words: [], most: ROWS, more: null };
    tables.push(one);
    Array.from(table.tHead.rows[0].cells).forEach(function (head, index) {
      head.querySelector("button").addEventListener("click", function () { sortBy(one, index); });
    });
    if (one.rows.length > ROWS) {
      one.more = pager(one);
      show(one);
    }
    table.classList.add("paged");
  });

  Array.from(document.querySelectorAll(".filter")).forEach(function (holder) {
    holder.hidden = false;
    var table = holder.parentNode.querySelector("table.sortable");
    var one = tables.filter(function (each) { return each.table === table; })[0];
    holder.querySelector("input").addEventListener("input", function (event) {
      one.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      show(one);
      holder.querySelector("span").textContent = one.words.length ? one.found + " of " + one.rows.length : "";
    });
  });

  // ---- links to a folded trial unfold it

  function unfold() {
    var target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") {
      target.open = true;
      target.scrollIntoView();
      target.querySelector("summary").focus({ preventScroll: true });
    }
  }
  window.addEventListener("hashchange", unfold);

  function openTrial(event) {
    var id = event.points && event.points[0] && event.points[0].customdata;
    if (typeof id !== "string") { return; }
    var place = document.getElementById("trial-" + id.replace(/[^A-Za-z0-9_-]/g, "-"));
    if (place) { location.hash = place.id; }
  }

  // ---- paper: always light, figures as wide as the page

  window.addEventListener("beforeprint", function () { printing = true; root.classList.add("printing"); drawAll(); });
  window.addEventListener("afterprint", function () { printing = false; root.classList.remove("printing"); drawAll(); });

  nameTheme();
  choosers();
  drawAll();
  ["front", "progress"].forEach(function (name) {
    var place = document.getElementById("plot-" + name);
    if (place && place.on) { place.on("plotly_click", openTrial); }
  });
  unfold();
  root.dataset.ready = "yes";
})();
