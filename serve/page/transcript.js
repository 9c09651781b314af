// The words of a transcript on the page, and as text and SRT.
const PAUSE_S = 0.6;
const MAX_SEGMENT_S = 7;
const MAX_CHARACTERS = 84;

export class Transcript {
  constructor(element, onWord) {
    this.element = element;
    this.onWord = onWord;
    this.clear();
    element.addEventListener("click", (event) => this.chosen(event.target));
    element.addEventListener("keydown", (event) => this.move(event));
  }

  clear() {
    this.utterances = []; // lists of {word, start, end, confidence}
    this.buttons = [];
    this.live = null;
    this.element.replaceChildren();
  }

  get words() {
    return this.utterances.flat();
  }

  add(words) {
    this.showLive([], []);
    if (!words.length) return;
    this.utterances.push(words);
    const paragraph = document.createElement("p");
    words.forEach((word, index) => {
      if (index) paragraph.append(" ");
      paragraph.append(this.button(word));
    });
    this.append(paragraph);
  }

  showLive(stable, mayChange) {
    this.live?.remove();
    this.live = null;
    if (!stable.length && !mayChange.length) return;
    this.live = document.createElement("p");
    this.live.className = "live";
    stable.forEach((word) => this.live.append(shaded(document.createElement("span"), word, "word"), " "));
    if (mayChange.length) {
      const tail = document.createElement("span");
      tail.className = "may-change";
      tail.textContent = mayChange.map((word) => word.word).join(" ");
      this.live.append(tail);
    }
    this.append(this.live);
  }

  append(paragraph) {
    const atEnd = this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight < 40;
    this.element.append(paragraph);
    if (atEnd) this.element.scrollTop = this.element.scrollHeight;
  }

  button(word) {
    const button = shaded(document.createElement("button"), word, "word");
    button.type = "button";
    button.title = `${word.start.toFixed(2)} to ${word.end.toFixed(2)} s, ${Math.round(word.confidence * 100)} % sure`;
    button.tabIndex = this.buttons.length ? -1 : 0; // one stop for Tab; arrow keys go from word to word
    button.word = word;
    this.buttons.push(button);
    return button;
  }

  chosen(target) {
    if (target.word) this.onWord(target.word);
  }

  move(event) {
    const place = this.buttons.indexOf(event.target);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (place < 0 || !step) return;
    const next = this.buttons[place + step];
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  mark(time_s) {
    for (const button of this.buttons) {
      button.classList.toggle("now", time_s >= button.word.start && time_s < button.word.end);
    }
  }

  text() {
    return this.utterances.map((words) => words.map((word) => word.word).join(" ") + "\n").join("");
  }

  srt() {
    const segments = this.utterances.flatMap(segmentsOf);
    const block = (words, index) =>
      `${index + 1}\n${clock(words[0].start)} --> ${clock(words.at(-1).end)}\n${words.map((word) => word.word).join(" ")}\n`;
    return segments.map(block).join("\n");
  }
}

export function shaded(element, word, kind) {
  element.className = kind;
  element.textContent = word.word;
  element.style.setProperty("--doubtful", `${Math.round(Math.max(0, 1 - word.confidence) * 100)}%`);
  return element;
}

function segmentsOf(words) {
  const segments = [];
  for (const word of words) {
    const last = segments.at(-1);
    const characters = last ? last.reduce((sum, one) => sum + one.word.length + 1, 0) + word.word.length : 0;
    const joins = last && word.start - last.at(-1).end < PAUSE_S && word.end - last[0].start <= MAX_SEGMENT_S;
    if (joins && characters <= MAX_CHARACTERS) last.push(word);
    else segments.push([word]);
  }
  return segments;
}

function clock(seconds) {
  const whole = Math.round(seconds * 1000);
  const part = (value, digits) => String(value).padStart(digits, "0");
  const minutes = Math.floor(whole / 60000);
  return `${part(Math.floor(minutes / 60), 2)}:${part(minutes % 60, 2)}:${part(Math.floor(whole / 1000) % 60, 2)},${part(whole % 1000, 3)}`;
}
