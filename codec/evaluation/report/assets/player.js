"use strict";

// The player of a page: clips, each in several versions, with one version and one position for all of them.

class Player {
  constructor(root) {
    this.root = root;
    this.bar = root.querySelector(".bar");
    this.clips = [...root.querySelectorAll(".clip")].map((element) => new Clip(element, this));
    this.radios = [...this.bar.querySelectorAll("[role=radio]")];
    this.versions = this.radios.map((radio) => radio.dataset.version);
    this.playback = new Playback(() => this.show());
    this.other = this.versions[1];  // what key B returns to
    this.clip = null;
    this.connect();
    this.bar.hidden = false;
    this.choose(this.clips.find((clip) => !clip.element.hidden));
    this.select(this.versions.includes(remembered("version")) ? remembered("version") : this.versions[0]);
    this.prepare();
  }

  connect() {
    const find = (selector) => this.bar.querySelector(selector);
    this.button = find(".play");
    this.time = find(".time");
    this.difference = find(".difference");
    this.button.addEventListener("click", () => this.toggle());
    for (const radio of this.radios) radio.addEventListener("click", () => this.select(radio.dataset.version));
    find("[role=radiogroup]").addEventListener("keydown", (event) => this.onRadioKey(event));
    const loop = find(".loop");
    loop.checked = remembered("loop", true);
    this.playback.setLoop(loop.checked);
    loop.addEventListener("change", () => {
      this.playback.setLoop(loop.checked);
      remember("loop", loop.checked);
    });
    if (this.difference) {
      this.difference.checked = remembered("difference", false);
      find(".key").hidden = !this.difference.checked;
      this.difference.addEventListener("change", () => {
        remember("difference", this.difference.checked);
        this.paint();
      });
    }
    document.addEventListener("keydown", (event) => this.onKey(event));
  }

  // Decodes and draws one clip after the other, the visible ones first.
  async prepare() {
    for (const clip of [...this.clips].sort((a, b) => a.element.hidden - b.element.hidden)) {
      await clip.ready();
      clip.paint(this.difference?.checked);
      await new Promise((done) => setTimeout(done));
    }
    this.root.dataset.ready = "";
  }

  paint() {
    for (const clip of this.clips) clip.paint(this.difference?.checked);
    this.bar.querySelector(".key").hidden = !this.difference.checked;
  }

  choose(clip) {
    if (!clip || clip === this.clip) return;
    this.clip?.showPosition(0, false);
    this.clip = clip;
    this.playback.load(new Map());
    for (const other of this.clips) other.element.classList.toggle("current", other === clip);
    for (const radio of this.radios) radio.disabled = !clip.versions.has(radio.dataset.version);
    this.show();
  }

  select(version) {
    if (version === undefined) return;
    this.version = version;
    if (version !== this.versions[0]) this.other = version;
    remember("version", version);
    for (const radio of this.radios) {
      const chosen = radio.dataset.version === version;
      radio.setAttribute("aria-checked", chosen);
      radio.tabIndex = chosen ? 0 : -1;
    }
    for (const clip of this.clips) clip.select(version);
    this.playback.select(this.audible);
  }

  // A clip may lack a version; then its first one is heard.
  get audible() {
    return this.clip?.versions.has(this.version) ? this.version : this.clip?.versions.keys().next().value;
  }

  toggle(clip = this.clip) {
    if (clip === this.clip && this.playback.playing) this.playback.stop();
    else this.play(clip);
  }

  // Stops a listening test that plays, whose sounds must not be followed by named ones.
  toggleAny() {
    const other = Playback.all.find((one) => one.playing && one !== this.playback);
    if (other) other.stop();
    else this.toggle();
  }

  async play(clip = this.clip, position = undefined) {
    this.choose(clip);
    const buffers = await clip.ready();
    if (this.clip !== clip) return;  // another one was chosen meanwhile
    if (this.playback.buffers !== buffers) {
      this.playback.load(buffers);
      this.playback.select(this.audible);
    }
    if (position !== undefined) this.playback.seek(position);
    await this.playback.play();
  }

  // Moves the position, also of a clip that does not play.
  async seek(clip, position) {
    this.choose(clip);
    const buffers = await clip.ready();
    if (this.clip !== clip) return;
    if (this.playback.buffers !== buffers) {
      this.playback.load(buffers);
      this.playback.select(this.audible);
    }
    this.playback.seek(position);
  }

  show() {
    this.button.textContent = this.playback.playing ? "Pause" : "Play";
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    const { playback, clip } = this, playing = playback.playing !== null;
    this.frame = playing ? requestAnimationFrame(() => this.draw()) : 0;
    if (!clip) return;
    this.time.textContent = `${playback.position.toFixed(2)} / ${clip.seconds.toFixed(2)} s`;
    clip.showPosition(playback.position, playing);
  }

  onRadioKey(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const known = this.radios.filter((radio) => !radio.disabled);
    const next = known[(known.findIndex((radio) => radio.dataset.version === this.version) + step + known.length) % known.length];
    this.select(next.dataset.version);
    next.focus();
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.clip) return;
    const within = (selector) => event.target.closest?.(selector);
    if (within("select, textarea, input:not([type=checkbox])")) return;
    const key = event.key.toLowerCase();
    if (key === " " && !within("input, summary, a, button:not([role=radio])")) this.toggleAny();
    else if (key === "a") this.select(this.versions[0]);
    else if (key === "b") this.select(this.other);
    else if (/^[1-9]$/.test(key) && this.versions[key - 1] !== undefined) this.select(this.versions[key - 1]);
    else if (key === "d" && this.difference) this.difference.click();
    else return;
    event.preventDefault();
  }
}

class Clip {
  constructor(element, player) {
    this.element = element;
    this.track = element.querySelector(".track");
    this.name = this.track.dataset.name;
    this.seconds = Number(this.track.dataset.seconds);
    this.versions = new Map();
    for (const figure of element.querySelectorAll("figure")) this.versions.set(figure.dataset.version, new Version(figure));
    const button = element.querySelector(".start");
    button.hidden = false;
    button.addEventListener("click", () => player.toggle(this));
    this.button = button;
    for (const [version, { picture }] of this.versions) {
      picture.addEventListener("click", (event) => {
        const { left, width } = picture.getBoundingClientRect();
        player.select(version);
        player.play(this, this.seconds * Math.min(1, Math.max(0, (event.clientX - left) / width)));
      });
    }
    this.track.tabIndex = 0;
    this.track.setAttribute("role", "slider");
    this.track.setAttribute("aria-label", `position in ${this.name}`);
    this.track.setAttribute("aria-valuemin", "0");
    this.track.setAttribute("aria-valuemax", String(this.seconds));
    this.track.addEventListener("keydown", (event) => {
      const now = player.clip === this ? player.playback.position : 0;
      const next = { ArrowLeft: now - 0.25, ArrowRight: now + 0.25, Home: 0, End: this.seconds }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      player.seek(this, next);
    });
    this.showPosition(0, false);
  }

  // A promise of the decoded versions. A version that cannot be decoded is left out and says so.
  ready() {
    return this.promise ||= this.decode();
  }

  async decode() {
    const buffers = new Map();
    for (const [name, version] of this.versions) {
      try {
        const buffer = await decoded(version.audio);
        version.spectrogram = spectrogram(monoMix(buffer), buffer.sampleRate, Math.round(this.seconds * buffer.sampleRate));
        version.scale(buffer.sampleRate / 2000);
        buffers.set(name, buffer);
      } catch (error) {
        version.picture.textContent = `This browser cannot decode it: ${error.message}`;
      }
    }
    return buffers;
  }

  paint(difference) {
    const [first, ...others] = [...this.versions.values()].filter((version) => version.spectrogram);
    if (!first) return;
    const top = Math.max(-100, first.spectrogram.decibels.reduce((a, b) => Math.max(a, b)));
    paintSpectrogram(first.canvas, first.spectrogram, top);
    for (const version of others) {
      if (difference) paintDifference(version.canvas, version.spectrogram, first.spectrogram, top);
      else paintSpectrogram(version.canvas, version.spectrogram, top);
    }
  }

  select(version) {
    this.selected = this.versions.has(version) ? version : this.versions.keys().next().value;
    for (const [name, { figure }] of this.versions) figure.classList.toggle("selected", name === this.selected);
    this.showPosition(this.position, false);
  }

  showPosition(position, playing) {
    this.position = position;
    for (const { head } of this.versions.values()) head.style.left = `${100 * position / this.seconds}%`;
    const label = this.versions.get(this.selected)?.label ?? "";
    this.track.setAttribute("aria-valuenow", position.toFixed(2));
    this.track.setAttribute("aria-valuetext", `${position.toFixed(2)} of ${this.seconds.toFixed(2)} seconds, ${label}`);
    this.button.classList.toggle("pause", playing);
    this.button.setAttribute("aria-label", `${playing ? "Pause" : "Play"} ${this.name}`);
  }
}

class Version {
  constructor(figure) {
    this.figure = figure;
    this.label = figure.querySelector("figcaption").textContent;
    this.system = figure.dataset.system;
    this.audio = figure.querySelector("audio");
    this.audio.hidden = true;  // it serves browsers without JavaScript
    this.picture = document.createElement("div");
    this.picture.className = "picture";
    this.canvas = document.createElement("canvas");
    this.head = document.createElement("i");
    this.picture.append(this.canvas, this.head);
    figure.append(this.picture);
  }

  // Labels of the frequency axis inside the picture; `top` is in kHz.
  scale(top) {
    const step = [1, 2, 5, 10, 20].find((each) => top / each < 4) ?? 50;
    for (let mark = step; mark < 0.97 * top; mark += step) {
      const label = document.createElement("span");
      label.textContent = mark + step < 0.97 * top ? String(mark) : `${mark} kHz`;
      label.style.bottom = `${100 * mark / top}%`;
      this.picture.append(label);
    }
  }
}

const playerRoot = document.querySelector(".player");
const player = playerRoot ? new Player(playerRoot) : null;
