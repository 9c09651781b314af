// Waveform and spectrogram of samples, as many columns as the canvas is wide: an hour costs as much as a second.
const FFT_SIZE = 512;
const TOP_HZ = 8000;
const DYNAMIC_DB = 70;
// Dark violet over red to pale yellow: lightness grows evenly, so it also reads without colours.
const STOPS = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
const PALETTE = Array.from({ length: 256 }, (_, index) => {
  const place = (index / 255) * (STOPS.length - 1);
  const low = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[low].map((value, channel) => value + (STOPS[low + 1][channel] - value) * (place - low));
});
const WINDOW = Float32Array.from({ length: FFT_SIZE }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / (FFT_SIZE - 1)));

export function fitCanvas(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  return canvas.getContext("2d");
}

export function drawWaveform(canvas, samples, colour, scale) {
  const context = fitCanvas(canvas);
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  context.fillStyle = colour;
  const middle = height / 2;
  for (let column = 0; column < width; column++) {
    const start = Math.floor((column * samples.length) / width);
    const end = Math.max(start + 1, Math.floor(((column + 1) * samples.length) / width));
    const step = Math.max(1, Math.floor((end - start) / 200));
    let low = 0;
    let high = 0;
    for (let index = start; index < end; index += step) {
      const sample = samples[index] || 0;
      if (sample < low) low = sample;
      if (sample > high) high = sample;
    }
    const top = middle - high * scale * middle;
    context.fillRect(column, top, 1, Math.max(1, middle - low * scale * middle - top));
  }
}

export function loudest(samples) {
  let peak = 1e-3;
  const step = Math.max(1, Math.floor(samples.length / 200000));
  for (let index = 0; index < samples.length; index += step) peak = Math.max(peak, Math.abs(samples[index]));
  return peak;
}

export function drawSpectrogram(canvas, samples, rateHz) {
  const context = fitCanvas(canvas);
  const { width, height } = canvas;
  const columns = Math.min(width, 900);
  const bins = Math.max(2, Math.min(FFT_SIZE / 2, Math.round((TOP_HZ / rateHz) * FFT_SIZE)));
  const levels = new Float32Array(columns * bins);
  let top = -1e9;
  for (let column = 0; column < columns; column++) {
    const centre = Math.floor(((column + 0.5) * samples.length) / columns);
    const power = spectrum(samples, centre - FFT_SIZE / 2);
    for (let bin = 0; bin < bins; bin++) {
      const level = 10 * Math.log10(power[bin] + 1e-10);
      levels[column * bins + bin] = level;
      if (level > top) top = level;
    }
  }
  const image = new ImageData(columns, bins);
  for (let column = 0; column < columns; column++) {
    for (let bin = 0; bin < bins; bin++) {
      const share = Math.min(1, Math.max(0, 1 + (levels[column * bins + bin] - top) / DYNAMIC_DB));
      const colour = PALETTE[Math.round(share * 255)];
      const place = ((bins - 1 - bin) * columns + column) * 4;
      image.data.set([colour[0], colour[1], colour[2], 255], place);
    }
  }
  const small = new OffscreenCanvas(columns, bins);
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = true;
  context.drawImage(small, 0, 0, width, height);
}

const real = new Float32Array(FFT_SIZE);
const imaginary = new Float32Array(FFT_SIZE);
const COSINES = Float32Array.from({ length: FFT_SIZE / 2 }, (_, k) => Math.cos((2 * Math.PI * k) / FFT_SIZE));
const SINES = Float32Array.from({ length: FFT_SIZE / 2 }, (_, k) => -Math.sin((2 * Math.PI * k) / FFT_SIZE));

function spectrum(samples, start) {
  const bits = Math.log2(FFT_SIZE);
  for (let n = 0; n < FFT_SIZE; n++) {
    let reversed = 0;
    for (let bit = 0; bit < bits; bit++) if (n & (1 << bit)) reversed |= 1 << (bits - 1 - bit);
    real[reversed] = (samples[start + n] || 0) * WINDOW[n];
    imaginary[reversed] = 0;
  }
  for (let size = 2; size <= FFT_SIZE; size *= 2) {
    const half = size / 2;
    const stride = FFT_SIZE / size;
    for (let block = 0; block < FFT_SIZE; block += size) {
      for (let k = 0; k < half; k++) {
        const a = block + k;
        const b = a + half;
        const re = real[b] * COSINES[k * stride] - imaginary[b] * SINES[k * stride];
        const im = real[b] * SINES[k * stride] + imaginary[b] * COSINES[k * stride];
        real[b] = real[a] - re;
        imaginary[b] = imaginary[a] - im;
        real[a] += re;
        imaginary[a] += im;
      }
    }
  }
  const power = new Float32Array(FFT_SIZE / 2);
  for (let bin = 0; bin < power.length; bin++) power[bin] = real[bin] ** 2 + imaginary[bin] ** 2;
  return power;
}
