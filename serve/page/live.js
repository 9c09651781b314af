// The microphone to the service and back: vosk's WebSocket protocol with words and their times.
export class Live {
  // handlers: onPartial(words, numStable), onWords(words), onSamples(samples), onEnd(problem or null)
  constructor(handlers) {
    this.handlers = handlers;
    this.ended = false;
  }

  async start(url, key) {
    if (!navigator.mediaDevices) throw new Error("This page may use the microphone only over https, or on this computer itself.");
    const wanted = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    try {
      this.socket = await connected(url, key);
      this.recorder = await this.openRecorder();
    } catch (error) {
      this.close();
      throw error;
    }
    this.socket.onmessage = (event) => this.heard(JSON.parse(event.data));
    this.socket.onclose = (event) => this.end(event.code === 1000 ? null : event.reason || "The connection was lost.");
    this.socket.send(JSON.stringify({ config: { sample_rate: this.context.sampleRate, words: 1, partial_words: true } }));
    this.recorder.port.onmessage = (event) => this.record(event.data);
    this.stream.getAudioTracks()[0].onended = () => this.stop();
  }

  async openRecorder() {
    let source;
    try {
      this.context = new AudioContext({ sampleRate: 16000 });
      source = this.context.createMediaStreamSource(this.stream);
    } catch {
      this.context = new AudioContext(); // not every browser resamples a microphone; the service does
      source = this.context.createMediaStreamSource(this.stream);
    }
    await this.context.audioWorklet.addModule("page/worklet.js");
    const recorder = new AudioWorkletNode(this.context, "recorder", { numberOfOutputs: 0 });
    source.connect(recorder);
    return recorder;
  }

  get rate() {
    return this.context.sampleRate;
  }

  stop() {
    this.recorder?.port.postMessage("end"); // its rest comes, then null
  }

  record(samples) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    if (samples === null) {
      this.socket.send(JSON.stringify({ eof: 1 }));
      this.close();
      return;
    }
    const integers = Int16Array.from(samples, (sample) => Math.round(Math.max(-1, Math.min(1, sample)) * 32767));
    this.handlers.onSamples(integers);
    this.socket.send(integers);
  }

  heard(reply) {
    if (reply.error) this.end(reply.error);
    else if (reply.text !== undefined) this.handlers.onWords((reply.result || []).map(plain));
    else this.handlers.onPartial((reply.partial_result || []).map(plain), reply.num_stable || 0);
  }

  end(problem) {
    if (this.ended) return;
    this.ended = true;
    this.close();
    this.socket?.close();
    this.handlers.onEnd(problem);
  }

  close() {
    this.stream?.getTracks().forEach((track) => track.stop());
    if (this.context && this.context.state !== "closed") this.context.close();
  }
}

function connected(url, key) {
  const protocols = key ? ["vosk", `openai-insecure-api-key.${key}`] : ["vosk"];
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, protocols);
    socket.onopen = () => resolve(socket);
    socket.onerror = () => reject(new Error(key ? "The service does not answer, or refuses the API key." : "The service does not answer, or asks for an API key."));
  });
}

function plain(word) {
  return { word: word.word, start: word.start, end: word.end, confidence: word.conf };
}
