"use strict";

// The choice of the seed, and the blind test. Both need the player.

// One seed is shown at a time.
const seedChoice = document.getElementById("seed");
function showSeed() {
  for (const clip of player.clips) clip.element.hidden = clip.element.dataset.seed !== seedChoice.value;
  player.choose(player.clips.find((clip) => !clip.element.hidden));
}
if (seedChoice) {
  seedChoice.addEventListener("change", showSeed);
  showSeed();
}

const trialForm = document.getElementById("trial");
if (trialForm) blindTest(trialForm);

function blindTest(form) {
  const columns = ["trial", "time", "mode", "random_seed", "clip", "training_seed", "a", "b", "x", "answer", "correct"];
  const key = "blind test of " + document.body.dataset.name;
  const status = document.getElementById("status");
  const choices = form.elements;
  const playback = new Playback(() => showPlaying());
  const sounds = player.clips.flatMap((clip) => [...clip.versions.keys()].map((label) => (
    { label, clip: clip.name, seed: clip.element.dataset.seed, of: clip })));
  const estimates = sounds.filter(({ label }) => label !== "reference");
  const unique = (values) => [...new Set(values)];
  let votes = stored();
  let random, trial;

  for (const [name, field] of [["first", "label"], ["second", "label"], ["clip", "clip"]]) {
    for (const value of unique(estimates.map((each) => each[field]))) {
      choices[name].append(new Option(value, value));
    }
  }
  form.addEventListener("change", restart);  // the same random seed and choices give the same trials
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const button of form.querySelectorAll("[data-play]")) button.addEventListener("click", () => play(button));
  for (const button of form.querySelectorAll("[data-answer]")) {
    button.addEventListener("click", () => vote(button.dataset.answer));
  }
  document.getElementById("export").addEventListener("click", () => downloadCsv("votes.csv", columns, votes));
  document.getElementById("clear").addEventListener("click", () => {
    if (votes.length && confirm(`Delete ${counted(votes.length, "vote")}?`)) {
      votes = [];
      store();
      summarize();
    }
  });
  restart();
  summarize();

  function restart() {
    random = choices.seed.value ? generator(choices.seed.value) : Math.random;
    draw();
  }

  // Draws a clip, then two strategies that were trained with the same seed.
  function draw() {
    stop();
    const one = choices.first.value, other = choices.second.value, clip = choices.clip.value;
    const pairs = {};
    for (const a of estimates) {
      for (const b of estimates) {
        const sameClip = a.of === b.of;
        const wanted = (first, second) => (!one || one === first) && (!other || other === second);
        if (!sameClip || a === b || (clip && clip !== a.clip)) continue;
        if (!wanted(a.label, b.label) && !wanted(b.label, a.label)) continue;
        (pairs[JSON.stringify([a.clip, a.seed])] ||= []).push([a, b]);
      }
    }
    const mode = choices.mode.value, clips = Object.values(pairs);
    trial = null;
    if (clips.length) {
      const [a, b] = pick(pick(clips));
      const reference = sounds.find(({ label, of }) => label === "reference" && of === a.of);
      const x = mode === "abx" ? pick(["a", "b"]) : "";
      trial = { mode, a, b, x, third: mode === "abx" ? { a, b }[x] : reference };
      status.textContent = `Trial ${votes.length + 1}.`;
    } else {
      status.textContent = "These strategies have no clip in common. Choose two different strategies.";
    }
    form.querySelector("[data-play=x]").textContent = mode === "abx" ? "X" : "reference";
    document.getElementById("question").textContent = mode === "abx" ? "X is" : "Closer to the reference is";
    for (const button of form.querySelectorAll("button")) button.disabled = !trial;
  }

  function pick(list) {
    return list[Math.floor(random() * list.length)];
  }

  // A, B and X share one position, like the versions of the player.
  async function play(button) {
    const which = button.dataset.play, current = trial;
    if (which === "stop") return playback.stop();
    const buffers = await trial.a.of.ready();
    if (trial !== current) return;  // another one was drawn meanwhile
    if (!playback.buffers.size) {
      const { a, b, third } = trial;
      playback.load(new Map(Object.entries({ a, b, x: third }).map(([name, { label }]) => [name, buffers.get(label)])));
    }
    playback.select(which);
    await playback.play();
  }

  function stop() {
    playback.load(new Map());
    showPlaying();
  }

  function showPlaying() {
    for (const button of form.querySelectorAll("[data-play]")) {
      button.setAttribute("aria-pressed", playback.playing !== null && button.dataset.play === playback.version);
    }
  }

  function vote(answer) {
    if (!answer) return draw();
    const { mode, a, b, x } = trial;
    const correct = mode === "abx" ? Number(answer === x) : "";
    votes.push({
      trial: votes.length + 1, time: new Date().toISOString(), mode, random_seed: choices.seed.value,
      clip: a.clip, training_seed: a.seed, a: a.label, b: b.label, x, answer, correct,
    });
    store();
    draw();
    summarize();
    const feedback = mode === "abx" ? (correct ? "Correct." : `Wrong, X was ${x.toUpperCase()}.`) : "Saved.";
    status.textContent = `${feedback} ${status.textContent}`;
  }

  function summarize() {
    const { trials, correct, preferences } = counts(votes);
    const p = trials ? `; probability by guessing: ${shown(atLeast(correct, trials))}` : "";
    document.getElementById("summary").textContent =
      `A/B/X: ${counted(trials, "trial")}, ${correct} correct${p}. Preferences: ${preferences}.`;
    const groups = {};
    for (const v of votes) (groups[JSON.stringify([v.a, v.b].sort())] ||= []).push(v);
    document.getElementById("pairs").replaceChildren(...Object.keys(groups).sort().map((name) => {
      const pair = JSON.parse(name), own = counts(groups[name], pair[0]);
      const row = document.createElement("tr");
      const heading = document.createElement("th");
      heading.scope = "row";
      heading.textContent = pair.join(" and ");
      row.append(heading);
      for (const text of [
        own.trials, own.correct, own.trials ? shown(atLeast(own.correct, own.trials)) : "",
        own.preferences, own.first, own.preferences ? shown(twoSided(own.first, own.preferences)) : "",
      ]) row.insertCell().textContent = text;
      return row;
    }));
  }

  function counts(some, first) {
    const abx = some.filter((v) => v.mode === "abx"), rest = some.filter((v) => v.mode !== "abx");
    return {
      trials: abx.length, correct: abx.filter((v) => v.correct).length,
      preferences: rest.length, first: rest.filter((v) => v[v.answer] === first).length,
    };
  }

  // If the browser refuses to store data, votes are lost when the page is closed.
  function stored() {
    try {
      return JSON.parse(localStorage.getItem(key)) || [];
    } catch {
      return [];
    }
  }

  function store() {
    try {
      localStorage.setItem(key, JSON.stringify(votes));
    } catch {
      document.getElementById("export").textContent = "export votes as CSV (this browser does not store them)";
    }
  }
}

// P(at least k of n successes) for a fair coin. In logarithms, so that large n do not underflow.
function atLeast(k, n) {
  let log = -n * Math.LN2, sum = 0;
  for (let i = 0; i <= n; i++) {
    if (i >= k) sum += Math.exp(log);
    log += Math.log((n - i) / (i + 1));
  }
  return Math.min(1, sum);
}

function twoSided(k, n) {
  return Math.min(1, 2 * atLeast(Math.max(k, n - k), n));
}

function shown(p) {
  return p < 0.001 ? "< 0.001" : p.toFixed(3);
}
