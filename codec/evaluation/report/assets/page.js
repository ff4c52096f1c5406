"use strict";

// <time data-at="UNIX SECONDS"> gets the age of that moment. A run that says that it is running, and gave no sign of
// life for half an hour, is shown as silent: a killed process cannot say that it has ended.
const SILENT_SECONDS = 1800;

function ageText(seconds) {
  for (const [size, unit] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
    const count = Math.floor(seconds / size);
    if (count) return `${count} ${unit}${count > 1 ? "s" : ""} ago`;
  }
  return `${Math.max(0, Math.floor(seconds))} s ago`;
}

function showAges() {
  for (const time of document.querySelectorAll("time[data-at]")) {
    const seconds = Date.now() / 1000 - Number(time.dataset.at);
    time.textContent = ageText(seconds);
    const run = time.closest("[data-run]"), state = run?.querySelector(".state.running");
    if (state && "alive" in time.dataset && seconds > SILENT_SECONDS) {
      state.className = "state silent";
      state.textContent = "no sign of life";
      const note = run.querySelector(".running-note");
      if (note) note.textContent = "The process may have been killed. The command that started it resumes the run.";
    }
  }
}
showAges();
setInterval(showAges, 10000);

// What the reader has chosen survives a reload of the page. Some browsers store nothing for local files.
function remembered(key, otherwise) {
  try {
    return JSON.parse(sessionStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function remember(key, value) {
  try {
    sessionStorage.setItem(key, JSON.stringify(value));
  } catch { /* then it does not survive */ }
}

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("main details")) details.open = true;
});
