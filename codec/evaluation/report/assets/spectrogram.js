"use strict";

// Spectrograms: a short-time Fourier transform with a Hann window, in dB. A full-scale sine has 0 dB.

const SPECTROGRAM = { rows: 256, columns: 400, rangeDb: 80, differenceDb: 30 };

// In-place Fourier transform of a power of two of complex numbers.
function fft(re, im) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [re[i], re[j], im[i], im[j]] = [re[j], re[i], im[j], im[i]];
  }
  for (let size = 2; size <= n; size *= 2) {
    const half = size / 2, step = -2 * Math.PI / size;
    for (let k = 0; k < half; k++) {
      const wr = Math.cos(k * step), wi = Math.sin(k * step);
      for (let i = k; i < n; i += size) {
        const j = i + half, xr = re[j] * wr - im[j] * wi, xi = re[j] * wi + im[j] * wr;
        re[j] = re[i] - xr;
        im[j] = im[i] - xi;
        re[i] += xr;
        im[i] += xi;
      }
    }
  }
}

// The window is the power of two nearest to 43 ms. Neighbouring bins are reduced to 256 rows by their maximum; row 0 is
// the lowest frequency. Returns { columns, decibels }, where decibels[column * rows + row].
function spectrogram(samples, rate, length = samples.length) {
  const { rows } = SPECTROGRAM;
  const window = Math.max(2 * rows, 2 ** Math.round(Math.log2(0.043 * rate))), bins = window / 2 / rows;
  const hop = Math.max(1, Math.ceil(length / SPECTROGRAM.columns)), columns = Math.max(1, Math.ceil(length / hop));
  const hann = Float64Array.from({ length: window }, (_, i) => 0.5 - 0.5 * Math.cos(2 * Math.PI * i / window));
  const scale = 4 / window;  // 2 over the sum of the window
  const decibels = new Float32Array(columns * rows), re = new Float64Array(window), im = new Float64Array(window);
  for (let column = 0; column < columns; column++) {
    const first = column * hop - window / 2;
    for (let i = 0; i < window; i++) re[i] = hann[i] * scale * (samples[first + i] || 0);
    im.fill(0);
    fft(re, im);
    for (let row = 0; row < rows; row++) {
      let power = 1e-12;
      for (let k = row * bins + 1; k <= (row + 1) * bins; k++) power = Math.max(power, re[k] ** 2 + im[k] ** 2);
      decibels[column * rows + row] = 10 * Math.log10(power);
    }
  }
  return { columns, decibels };
}

// Mean of the channels of an AudioBuffer.
function monoMix(buffer) {
  const mix = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    buffer.getChannelData(channel).forEach((sample, i) => { mix[i] += sample / buffer.numberOfChannels; });
  }
  return mix;
}

// The colour map magma as polynomials (Matt Zucker, public domain): t in [0, 1] -> red, green, blue in [0, 255].
const MAGMA = [
  [-0.002136485053939, -0.000749655052795, -0.005386127855323], [0.251660540737164, 0.677523243683767, 2.494026599312351],
  [8.353717279216625, -3.577719514958484, 0.314467903013257], [-27.66873308576866, 14.26473078096533, -13.64921318813922],
  [52.17613981234068, -27.94360607168351, 12.94416944238394], [-50.76852536473588, 29.04658282127291, 4.23415299384598],
  [18.65570506591883, -11.48977351997711, -5.601961508734096],
];
function magma(t) {
  return [0, 1, 2].map((c) => 255 * Math.min(1, Math.max(0, MAGMA.reduceRight((sum, row) => sum * t + row[c], 0))));
}

// What is added becomes orange, what is missing blue, what is equal black: t in [-1, 1].
function diverging(t) {
  const color = t > 0 ? [255, 150, 50] : [70, 150, 255];
  return color.map((value) => value * Math.min(1, Math.abs(t)));
}

// Draws values in [0, 1] through a table of 256 colours onto a canvas.
function paint(canvas, columns, value, color) {
  const { rows } = SPECTROGRAM, context = canvas.getContext("2d");
  canvas.width = columns;
  canvas.height = rows;
  const image = context.createImageData(columns, rows);
  const table = Array.from({ length: 256 }, (_, i) => color(i / 255));
  for (let column = 0; column < columns; column++) {
    for (let row = 0; row < rows; row++) {
      const [r, g, b] = table[Math.round(255 * Math.min(1, Math.max(0, value(column * rows + row))))];
      const at = 4 * ((rows - 1 - row) * columns + column);
      image.data.set([r, g, b, 255], at);
    }
  }
  context.putImageData(image, 0, 0);
}

// topDb: the brightest colour; the darkest is 80 dB below.
function paintSpectrogram(canvas, { columns, decibels }, topDb) {
  paint(canvas, columns, (i) => (decibels[i] - topDb) / SPECTROGRAM.rangeDb + 1, magma);
}

// Difference of two spectrograms in dB. Both are limited to 80 dB below `topDb`, so silence is equal to silence.
function differenceDb(estimate, reference, topDb, i) {
  const floor = topDb - SPECTROGRAM.rangeDb;
  return Math.max(floor, estimate.decibels[i]) - Math.max(floor, reference.decibels[i]);
}

function paintDifference(canvas, estimate, reference, topDb) {
  const columns = Math.min(estimate.columns, reference.columns), range = SPECTROGRAM.differenceDb;
  paint(canvas, columns, (i) => differenceDb(estimate, reference, topDb, i) / range / 2 + 0.5, (t) => diverging(2 * t - 1));
}
