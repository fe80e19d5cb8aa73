(function () {
  "use strict";
  document.documentElement.classList.add("scripted");
  // Before anything is painted: the theme chosen last time, if the browser lets a file remember it.
  try {
    var kept = localStorage.getItem("dyno-theme");
    if (kept === "dark" || kept === "light") { document.documentElement.dataset.theme = kept; }
  } catch (refused) { document.documentElement.dataset.remembers = "no"; }
})();
