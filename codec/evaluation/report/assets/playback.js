"use strict";

// Versions of one clip that play at the same time, one of them audible, so that a switch has no gap and no jump.

const decodedAudio = new WeakMap();

// The samples of an <audio> element with a data URI, at their own sampling rate: a promise of an AudioBuffer.
function decoded(audio) {
  if (!decodedAudio.has(audio)) decodedAudio.set(audio, decode(audio.getAttribute("src"), Number(audio.dataset.rate)));
  return decodedAudio.get(audio);
}

function decode(uri, rate) {
  const text = atob(uri.slice(uri.indexOf(",") + 1));
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  const context = new OfflineAudioContext(1, 1, Math.min(96000, Math.max(8000, rate)));
  return context.decodeAudioData(bytes.buffer);
}

class Playback {
  static all = [];
  static context = null;
  static FADE_SECONDS = 0.004;

  // changed: called after every start, stop, switch and seek.
  constructor(changed = () => {}) {
    this.changed = changed;
    this.buffers = new Map();  // version -> AudioBuffer
    this.version = null;       // the audible one
    this.offset = 0;           // seconds, where it stands or last started
    this.loop = true;
    this.playing = null;       // { when, voices } while it plays
    Playback.all.push(this);
  }

  static get anyPlaying() {
    return Playback.all.some((one) => one.playing !== null);
  }

  get duration() {
    return Math.min(...[...this.buffers.values()].map((buffer) => buffer.duration), Infinity);
  }

  // Position in seconds, of what is heard now.
  get position() {
    if (!this.playing) return this.offset;
    const context = Playback.context;
    const heard = Math.max(0, context.currentTime - (context.outputLatency || 0) - this.playing.when);
    return this.loop ? (this.offset + heard) % this.duration : Math.min(this.offset + heard, this.duration);
  }

  // Takes other versions; the position is kept if `keep`.
  load(buffers, keep = false) {
    const position = keep ? this.position : 0;
    this.stop();
    this.buffers = buffers;
    this.offset = Math.min(position, this.duration);
  }

  async play() {
    if (this.playing || !this.buffers.size) return;
    Playback.context ||= new AudioContext();
    for (const other of Playback.all) if (other !== this) other.stop();
    this.start();
    await Playback.context.resume();
  }

  start() {
    const context = Playback.context, when = context.currentTime + 0.02, duration = this.duration;
    if (this.offset >= duration - 0.005) this.offset = 0;
    const voices = new Map();
    for (const [version, buffer] of this.buffers) {
      const source = context.createBufferSource(), gain = context.createGain();
      source.buffer = buffer;
      source.loop = this.loop;
      source.loopEnd = duration;
      gain.gain.value = version === this.version ? 1 : 0;
      source.connect(gain).connect(context.destination);
      source.start(when, this.offset);
      voices.set(version, { source, gain });
    }
    const playing = this.playing = { when, voices };
    voices.values().next().value.source.onended = () => {
      if (this.playing !== playing) return;
      this.stop();
      this.offset = 0;
      this.changed();
    };
    this.changed();
  }

  stop() {
    if (!this.playing) return;
    this.offset = this.position;
    for (const { source } of this.playing.voices.values()) source.stop();
    this.playing = null;
    this.changed();
  }

  toggle() {
    return this.playing ? this.stop() : this.play();
  }

  seek(seconds) {
    const playing = this.playing !== null;
    this.stop();
    this.offset = Math.min(Math.max(0, seconds), this.duration);
    if (playing) this.start();
    else this.changed();
  }

  select(version) {
    this.version = version;
    if (this.playing) {
      for (const [name, { gain }] of this.playing.voices) {
        gain.gain.setTargetAtTime(name === version ? 1 : 0, Playback.context.currentTime, Playback.FADE_SECONDS);
      }
    }
    this.changed();
  }

  setLoop(loop) {
    const position = this.position, playing = this.playing !== null;
    this.stop();
    this.offset = position;
    this.loop = loop;
    if (playing) this.start();
  }
}
