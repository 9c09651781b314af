import { drawSpectrogram, drawWaveform, loudest } from "./pictures.js";
import { Live } from "./live.js";
import { shaded, Transcript } from "./transcript.js";

const VIEW_S = 12; // what is shown of a live recording
const byId = (id) => document.getElementById(id);
const base = new URL(".", location.href);
const player = byId("player");
const transcript = new Transcript(byId("transcript"), (word) => play(word.start));

let model = "jasper";
let shown = null; // {samples, rate, start_s, duration_s}
let live = null;
let recording = [];
let request = null;

function say(text) {
  byId("status").textContent = text;
}

function complain(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

function begin(name) {
  complain("");
  request?.abort();
  request = null;
  player.pause();
  player.hidden = true;
  if (player.src) URL.revokeObjectURL(player.src);
  player.removeAttribute("src");
  byId("cursor").hidden = true;
  byId("name").textContent = name;
  byId("busy").hidden = true;
  transcript.clear();
  shown = null;
  offer();
}

function offer() {
  const some = transcript.words.length > 0 && !live;
  for (const id of ["copy", "download-text", "download-srt"]) byId(id).disabled = !some;
  byId("legend").hidden = !transcript.words.length;
}

// Pictures

function show(samples, rate, start_s = 0) {
  shown = { samples, rate, start_s, duration_s: samples.length / rate };
  byId("sound").hidden = false;
  byId("from").textContent = time(start_s);
  byId("to").textContent = time(start_s + shown.duration_s);
  draw();
}

function draw() {
  if (!shown) return;
  const colour = getComputedStyle(document.documentElement).getPropertyValue("--wave");
  drawWaveform(byId("waveform"), shown.samples, colour, 0.95 / loudest(shown.samples));
  drawSpectrogram(byId("spectrogram"), shown.samples, shown.rate);
}

function time(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

function follow() {
  const now = player.currentTime;
  transcript.mark(now);
  if (shown?.duration_s) {
    byId("cursor").hidden = false;
    byId("cursor").style.left = `${(100 * now) / shown.duration_s}%`;
  }
  if (!player.paused) requestAnimationFrame(follow);
}

function play(start_s) {
  if (player.hidden) return;
  player.currentTime = start_s;
  player.play();
}

function hear(blob) {
  player.src = URL.createObjectURL(blob);
  player.hidden = false;
}

// Files

async function transcribeFile(file) {
  if (live) return;
  begin(file.name);
  const mine = (request = new AbortController());
  byId("busy").hidden = false;
  say("Transcribing …");
  showFile(file, mine);
  const form = new FormData();
  form.append("model", model);
  form.append("response_format", "verbose_json");
  form.append("timestamp_granularities[]", "word");
  form.append("timestamp_granularities[]", "segment");
  form.append("file", file);
  const key = byId("key").value.trim();
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const started = performance.now();
  try {
    const reply = await fetch(new URL("v1/audio/transcriptions", base), { method: "POST", body: form, headers, signal: mine.signal });
    const said = await reply.json();
    if (!reply.ok) throw new Error(said.error?.message || `The service answered with ${reply.status}.`);
    addByPauses(said.words);
    const took = ((performance.now() - started) / 1000).toFixed(1);
    say(said.words.length ? `${said.words.length} words in ${said.duration.toFixed(1)} s of audio, after ${took} s` : "No words were heard.");
  } catch (error) {
    if (error.name === "AbortError") return;
    say("");
    complain(error instanceof TypeError ? "The service does not answer." : error.message);
  }
  if (request === mine) byId("busy").hidden = true;
  offer();
}

function addByPauses(words) {
  let paragraph = [];
  for (const word of words) {
    if (paragraph.length && word.start - paragraph.at(-1).end > 1.5) {
      transcript.add(paragraph);
      paragraph = [];
    }
    paragraph.push(word);
  }
  transcript.add(paragraph);
}

async function showFile(file, mine) {
  try {
    const context = new OfflineAudioContext(1, 1, 16000);
    const sound = await context.decodeAudioData(await file.arrayBuffer());
    if (request !== mine) return;
    show(sound.getChannelData(0), sound.sampleRate);
    hear(file);
  } catch {
    if (request === mine) byId("sound").hidden = true; // this browser cannot show it; the service may still read it
  }
}

// Microphone

async function startLive() {
  begin("Microphone");
  recording = [];
  say("Starting …");
  byId("speak").disabled = true;
  const session = new Live({
    onPartial: (words, numStable) => transcript.showLive(words.slice(0, numStable), words.slice(numStable)),
    onWords: (words) => {
      transcript.add(words);
      offer();
    },
    onSamples: (samples) => recording.push(samples),
    onEnd: endLive,
  });
  try {
    const url = new URL("vosk", base);
    url.protocol = url.protocol.replace("http", "ws");
    await session.start(url, byId("key").value.trim());
    live = session;
    speaking(true);
    say("Listening");
    pictureTimer = setInterval(showRecent, 250);
  } catch (error) {
    const known = { NotAllowedError: "The browser does not let this page use the microphone.", NotFoundError: "There is no microphone." };
    say("");
    complain(known[error.name] || error.message);
  }
  byId("speak").disabled = false;
}

let pictureTimer = 0;

function showRecent() {
  const rate = live.rate;
  const wanted = VIEW_S * rate;
  const pieces = [];
  let count = 0;
  for (let index = recording.length - 1; index >= 0 && count < wanted; index--) {
    pieces.unshift(recording[index]);
    count += recording[index].length;
  }
  const total = recording.reduce((sum, piece) => sum + piece.length, 0);
  if (count) show(joined(pieces), rate, (total - count) / rate);
}

function joined(pieces) {
  const samples = new Float32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let place = 0;
  for (const piece of pieces) {
    for (let index = 0; index < piece.length; index++) samples[place + index] = piece[index] / 32768;
    place += piece.length;
  }
  return samples;
}

function endLive(problem) {
  clearInterval(pictureTimer);
  const rate = live?.rate || 16000;
  live = null;
  speaking(false);
  transcript.showLive([], []);
  say(transcript.words.length ? `${transcript.words.length} words` : "No words were heard.");
  if (problem) complain(problem);
  if (recording.length) {
    show(joined(recording), rate);
    hear(wav(recording, rate));
  }
  offer();
}

function speaking(on) {
  byId("speak").setAttribute("aria-pressed", String(on));
  byId("speak-label").textContent = on ? "Stop" : "Speak";
}

function wav(pieces, rate) {
  const numBytes = pieces.reduce((sum, piece) => sum + piece.byteLength, 0);
  const head = new DataView(new ArrayBuffer(44));
  const text = (place, letters) => [...letters].forEach((letter, index) => head.setUint8(place + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  head.setUint32(4, 36 + numBytes, true);
  text(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true);
  head.setUint16(22, 1, true);
  head.setUint32(24, rate, true);
  head.setUint32(28, rate * 2, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  text(36, "data");
  head.setUint32(40, numBytes, true);
  return new Blob([head, ...pieces], { type: "audio/wav" });
}

// Buttons, dropping, what belongs to the page

function download(content, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "text/plain;charset=utf-8" }));
  link.download = `${byId("name").textContent.replace(/\.\w+$/, "") || "transcript"}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

byId("speak").addEventListener("click", () => {
  if (!live) return startLive();
  say("Finishing …");
  live.stop();
});
byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) transcribeFile(file);
});
byId("download-text").addEventListener("click", () => download(transcript.text(), "txt"));
byId("download-srt").addEventListener("click", () => download(transcript.srt(), "srt"));
byId("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(transcript.text());
  say("Copied");
});
player.addEventListener("play", follow);
player.addEventListener("seeked", follow);
document.querySelector(".pictures").addEventListener("click", (event) => {
  const box = event.currentTarget.getBoundingClientRect();
  if (shown) play(((event.clientX - box.left) / box.width) * shown.duration_s);
});
const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  byId("drop").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop").hidden = true;
});
addEventListener("drop", (event) => {
  byId("drop").hidden = true;
  if (!carriesFile(event)) return;
  event.preventDefault();
  if (event.dataTransfer.files[0]) transcribeFile(event.dataTransfer.files[0]);
});
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
byId("key").value = sessionStorage.getItem("api-key") || "";
byId("key").addEventListener("input", (event) => sessionStorage.setItem("api-key", event.target.value));
for (const shade of document.querySelectorAll(".shade")) {
  shaded(shade, { word: shade.textContent, confidence: Number(shade.dataset.level) }, "shade");
}
fetch(new URL("healthz", base))
  .then((reply) => reply.json())
  .then((health) => {
    model = health.model;
    byId("model").textContent = health.status === "ok" ? `Model ${model}` : `Model ${model} does not answer`;
  })
  .catch(() => complain("The service does not answer."));
