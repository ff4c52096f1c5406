"use strict";

// A listening test after ITU-R BS.1534-3 (MUSHRA) with the clips of the player: hidden reference, anchor, sliders.

const REFERENCE = "hidden reference", ANCHOR = "anchor, 3.5 kHz";
const MOST_SYSTEMS = 10;  // with reference and anchor at most 12 sounds, as the recommendation asks
const QUALITIES = ["bad", "poor", "fair", "good", "excellent"];
const COLUMNS = ["listener", "time", "trial", "clip", "training_seed", "sound", "system", "score"];

// The buffer without everything above 3.75 kHz: -0.01 dB at 3.5 kHz, below -60 dB from 4 kHz. A Kaiser window of linear
// phase, whose delay is removed. Where the buffer has less than 4 kHz anyway, it hardly changes.
async function lowPass(buffer) {
  const rate = buffer.sampleRate, width = 500 / rate, beta = 5.65;
  const half = Math.ceil(52 / (2 * 14.36 * width)), taps = new Float32Array(2 * half + 1);
  const bessel = (x) => {
    let term = 1, sum = 1;
    for (let k = 1; term > 1e-9 * sum; k++) sum += term *= (x / (2 * k)) ** 2;
    return sum;
  };
  for (let n = -half; n <= half; n++) {
    const x = 2 * Math.PI * 3750 / rate * n, window = bessel(beta * Math.sqrt(1 - (n / half) ** 2)) / bessel(beta);
    taps[n + half] = window * (n ? Math.sin(x) / (Math.PI * n) : 7500 / rate);
  }
  const context = new OfflineAudioContext(buffer.numberOfChannels, buffer.length + half, rate);
  const source = context.createBufferSource(), filter = context.createConvolver();
  const impulse = context.createBuffer(1, taps.length, rate);
  impulse.copyToChannel(taps, 0);
  filter.normalize = false;
  filter.buffer = impulse;
  source.buffer = buffer;
  source.connect(filter).connect(context.destination);
  source.start();
  const delayed = await context.startRendering();
  const result = new AudioBuffer({ length: buffer.length, numberOfChannels: buffer.numberOfChannels, sampleRate: rate });
  for (let c = 0; c < buffer.numberOfChannels; c++) result.copyToChannel(delayed.getChannelData(c).subarray(half), c);
  return result;
}

class Mushra {
  constructor(root, clips) {
    this.root = root;
    this.clips = clips.filter((clip) => clip.versions.size > 1 && clip.versions.has("reference"));
    this.form = root.querySelector("form");
    this.list = root.querySelector("ol");
    this.storage = "MUSHRA test of " + document.title;
    this.ratings = this.stored();  // a row of the CSV for each rated sound
    this.playback = new Playback(() => this.showPlaying());
    const find = (selector) => root.querySelector(selector);
    this.reference = find(".reference");
    this.reference.addEventListener("click", () => this.play("reference"));
    find(".stop").addEventListener("click", () => this.playback.stop());
    find(".back").addEventListener("click", () => this.go(this.number - 1));
    find(".next").addEventListener("click", () => this.go(this.number + 1));
    find(".export").addEventListener("click", () => downloadCsv("mushra.csv", COLUMNS, this.ratings));
    find(".clear").addEventListener("click", () => this.clear());
    this.form.elements.listener.addEventListener("change", () => this.begin());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.hidden = false;
    this.form.elements.listener.value = remembered("listener", "1");
    this.begin();
  }

  // The clips in the order of this listener, at the first one that is not rated.
  begin() {
    this.listener = this.form.elements.listener.value.trim() || "1";
    remember("listener", this.listener);
    this.trials = shuffled(this.clips, generator(this.listener));
    const open = this.trials.findIndex((clip) => this.soundsOf(clip).some((sound) => !this.rating(clip, sound)));
    this.go(open < 0 ? this.trials.length - 1 : open);
  }

  // The sounds of a clip in the order of this listener: letter, name of the system, key of the version.
  soundsOf(clip) {
    const random = generator(JSON.stringify([this.listener, clip.name, clip.element.dataset.seed]));
    const versions = [...clip.versions].filter(([key]) => key !== "reference");
    const systems = shuffled(versions, random).slice(0, MOST_SYSTEMS).map(([key, { system }]) => ({ system, key }));
    const all = [...systems, { system: REFERENCE, key: "reference" }, { system: ANCHOR, key: null }];
    return shuffled(all, random).map((sound, i) => ({ ...sound, letter: String.fromCharCode(65 + i) }));
  }

  go(number) {
    this.playback.load(new Map());
    this.number = Math.max(0, Math.min(number, this.trials.length - 1));
    this.clip = this.trials[this.number];
    this.sounds = this.soundsOf(this.clip);
    this.list.replaceChildren(...this.sounds.map((sound) => this.row(sound)));
    this.show();
    this.showPlaying();
  }

  row(sound) {
    const row = document.createElement("li"), button = document.createElement("button");
    const slider = document.createElement("input"), output = document.createElement("output");
    button.type = "button";
    button.textContent = sound.letter;
    button.dataset.sound = sound.letter;
    button.addEventListener("click", () => this.play(sound.letter));
    Object.assign(slider, { type: "range", min: 0, max: 100, step: 1, value: this.rating(this.clip, sound)?.score ?? 50 });
    slider.setAttribute("aria-label", `Quality of ${sound.letter}`);
    for (const event of ["input", "pointerup"]) slider.addEventListener(event, () => this.rate(sound, Number(slider.value)));
    slider.addEventListener("keydown", (event) => {
      if (event.key === " ") this.play(sound.letter);
      else if (event.key === "Enter") this.rate(sound, Number(slider.value));
      else return;
      event.preventDefault();
    });
    row.append(button, slider, output);
    return row;
  }

  async play(which) {
    const clip = this.clip, buffers = await clip.ready();
    if (this.playback.buffers.size === 0) {
      const anchor = await (clip.anchor ||= lowPass(buffers.get("reference")));
      if (this.clip !== clip) return;  // another clip was chosen meanwhile
      const sounds = this.sounds.map(({ letter, key }) => [letter, key ? buffers.get(key) : anchor]);
      this.playback.load(new Map([["reference", buffers.get("reference")], ...sounds.filter(([, buffer]) => buffer)]));
    }
    if (this.clip !== clip || !this.playback.buffers.has(which)) return;
    this.playback.select(which);
    await this.playback.play();
  }

  showPlaying() {
    const heard = this.playback.playing ? this.playback.version : null;
    this.reference.setAttribute("aria-pressed", heard === "reference");
    for (const button of this.list.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", button.dataset.sound === heard);
    }
  }

  rating(clip, { system }) {
    const seed = clip.element.dataset.seed ?? "";
    return this.ratings.find((one) => (
      one.listener === this.listener && one.clip === clip.name && one.training_seed === seed && one.system === system));
  }

  rate(sound, score) {
    const { clip, listener } = this, known = this.rating(clip, sound);
    const rating = {
      listener, time: new Date().toISOString(), trial: this.number + 1, clip: clip.name,
      training_seed: clip.element.dataset.seed ?? "", sound: sound.letter, system: sound.system, score,
    };
    if (known) Object.assign(known, rating);
    else this.ratings.push(rating);
    this.store();
    this.show();
  }

  // Everything that depends on the ratings.
  show() {
    const rated = this.sounds.map((sound) => this.rating(this.clip, sound)?.score);
    this.list.querySelectorAll("li").forEach((row, i) => {
      const slider = row.querySelector("input"), known = rated[i] !== undefined;
      const quality = QUALITIES[Math.min(4, Math.floor(Number(slider.value) / 20))];
      row.classList.toggle("unrated", !known);
      row.querySelector("output").textContent = known ? `${slider.value}, ${quality}` : "not rated";
      slider.setAttribute("aria-valuetext", known ? `${slider.value}, ${quality}` : "not rated");
    });
    const count = rated.filter((score) => score !== undefined).length, complete = count === rated.length;
    const last = this.number === this.trials.length - 1;
    const done = last && complete && this.trials.every((clip) => this.soundsOf(clip).every((s) => this.rating(clip, s)));
    const hint = complete && Math.max(...rated) < 100 ? " No sound has 100, although one is the reference." : "";
    this.root.querySelector(".place").textContent =
      `Clip ${this.number + 1} of ${this.trials.length}: ${count} of ${rated.length} sounds are rated.${hint}` +
      (done ? " All clips are rated." : "");
    this.root.querySelector(".back").disabled = this.number === 0;
    this.root.querySelector(".next").disabled = last || !complete;
    this.showResults();
  }

  showResults() {
    const scores = {};
    for (const { system, score } of this.ratings) (scores[system] ||= []).push(score);
    const own = this.ratings.filter((one) => one.system === REFERENCE && one.listener === this.listener);
    const low = own.filter(({ score }) => score < 90).length;
    this.root.querySelector(".screening").textContent = own.length
      ? `Listener ${this.listener} gave the hidden reference less than 90 in ${low} of ${own.length} clips. ` +
        "Above 15 %, BS.1534 leaves a listener out." : "";
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    this.root.querySelector("tbody").replaceChildren(...Object.entries(scores)
      .sort(([, a], [, b]) => mean(b) - mean(a))
      .map(([system, values]) => {
        const row = document.createElement("tr"), heading = document.createElement("th");
        const sorted = [...values].sort((a, b) => a - b), middle = (sorted.length - 1) / 2;
        heading.scope = "row";
        heading.textContent = system;
        row.append(heading);
        const median = (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2;
        for (const value of [values.length, mean(values).toFixed(1), median.toFixed(1)]) row.insertCell().textContent = value;
        return row;
      }));
  }

  clear() {
    if (!this.ratings.length || !confirm(`Delete ${counted(this.ratings.length, "rating")}?`)) return;
    this.ratings = [];
    this.store();
    this.begin();
  }

  // If the browser refuses to store data, ratings are lost when the page is closed.
  stored() {
    try {
      return JSON.parse(localStorage.getItem(this.storage)) || [];
    } catch {
      return [];
    }
  }

  store() {
    try {
      localStorage.setItem(this.storage, JSON.stringify(this.ratings));
    } catch {
      this.root.querySelector(".export").textContent = "export ratings as CSV (this browser does not store them)";
    }
  }
}

const mushraRoot = document.getElementById("mushra");
const mushra = mushraRoot && player ? new Mushra(mushraRoot, player.clips) : null;
