// Sends the microphone's samples to the page in pieces of 100 ms.
class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Float32Array(Math.round(sampleRate / 10));
    this.filled = 0;
    this.port.onmessage = () => {
      this.port.postMessage(this.piece.slice(0, this.filled));
      this.port.postMessage(null); // the end
    };
  }

  process(inputs) {
    const samples = inputs[0][0];
    if (!samples) return true;
    let taken = 0;
    while (taken < samples.length) {
      const count = Math.min(samples.length - taken, this.piece.length - this.filled);
      this.piece.set(samples.subarray(taken, taken + count), this.filled);
      this.filled += count;
      taken += count;
      if (this.filled === this.piece.length) {
        this.port.postMessage(this.piece.slice());
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
