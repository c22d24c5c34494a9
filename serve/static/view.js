// One transcript on the page: its paragraphs, the word that the keyboard is at, and the editor of a paragraph.

import { rewritten } from "./editing.js";
import { clock, textOf } from "./transcript.js";

const HOLD = 500; // ms that make a long press
const SURE = 0.75, UNSURE = 0.5; // confidences below which a word is underlined: with dots, with a wave

export class View {
  // on: {play(from, to), menu(paragraph, word, element), changed(paragraph)}
  constructor(root, on) {
    this.root = root;
    this.on = on;
    this.elements = new Map(); // of paragraphs
    this.lit = [];
    this.listen();
  }

  show(transcript) {
    this.root.querySelector(".editor")?.requestSubmit(); // what was being edited is kept
    this.transcript = transcript;
    this.elements.clear();
    this.root.replaceChildren();
    for (const paragraph of transcript.paragraphs) this.refresh(paragraph);
  }

  // Draw a paragraph that is new or has changed; one that is being edited waits.
  refresh(paragraph, fresh = 0) {
    if (paragraph.editing) return;
    if (!this.transcript.paragraphs.includes(paragraph)) {
      this.elements.get(paragraph)?.remove();
      this.elements.delete(paragraph);
      return;
    }
    const old = this.elements.get(paragraph), row = this.row(paragraph, fresh);
    this.elements.set(paragraph, row);
    if (old) return old.replaceWith(row);
    const next = this.transcript.paragraphs[this.transcript.paragraphs.indexOf(paragraph) + 1];
    this.root.insertBefore(row, this.elements.get(next) ?? null);
  }

  row(paragraph, fresh) {
    const row = element("div", "paragraph"), text = element("p", "words");
    row.paragraph = paragraph;
    const time = clock(paragraph.words[0].start);
    const play = element("button", "time", time), edit = element("button", "edit", "Edit");
    play.type = edit.type = "button";
    play.ariaLabel = `Play from ${time}`;
    edit.ariaLabel = `Edit the paragraph at ${time}`;
    paragraph.words.forEach((word, i) => text.append(span(word, i >= paragraph.words.length - fresh), " "));
    row.append(play, text, edit);
    return row;
  }

  // ---- pointer and keyboard

  listen() {
    const root = this.root;
    root.addEventListener("click", (event) => {
      const row = event.target.closest(".paragraph"), word = event.target.closest(".word");
      if (event.target.closest(".time")) return this.on.play(row.paragraph.words[0].start, undefined);
      if (event.target.closest(".edit")) return this.edit(row.paragraph);
      if (!word || this.held || !getSelection().isCollapsed) return; // a selection is not a click
      this.go(word);
      this.playWord(word);
    });
    root.addEventListener("keydown", (event) => this.key(event));
    let timer, from;
    root.addEventListener("pointerdown", (event) => {
      const word = event.target.closest(".word");
      this.held = false;
      from = [event.clientX, event.clientY];
      clearTimeout(timer);
      if (word) timer = setTimeout(() => { this.held = true; this.menu(word); }, HOLD);
    });
    root.addEventListener("pointermove", (event) => {
      if (from && Math.hypot(event.clientX - from[0], event.clientY - from[1]) > 10) clearTimeout(timer);
    });
    for (const end of ["pointerup", "pointercancel", "scroll"]) root.addEventListener(end, () => clearTimeout(timer));
    root.addEventListener("contextmenu", (event) => {
      if (this.held || event.pointerType === "touch") event.preventDefault(); // a long press has its own meaning here
    });
  }

  key(event) {
    const word = event.target.closest(".word");
    if (!word) return;
    const keys = {
      ArrowLeft: () => this.go(this.beside(word, -1)),
      ArrowRight: () => this.go(this.beside(word, 1)),
      ArrowUp: () => this.go(word.closest(".paragraph").previousElementSibling?.querySelector(".word")),
      ArrowDown: () => this.go(word.closest(".paragraph").nextElementSibling?.querySelector(".word")),
      Enter: () => (event.altKey ? this.menu(word) : this.playWord(word)),
      " ": () => this.playWord(word),
      F2: () => this.edit(word.closest(".paragraph").paragraph),
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
  }

  beside(word, step) {
    const words = [...this.root.querySelectorAll(".word")];
    return words[words.indexOf(word) + step];
  }

  // Move the keyboard to a word.  It alone is a button: thousands of them would bury the text for screen readers.
  go(word, focus = true) {
    if (!word) return;
    for (const old of this.root.querySelectorAll(".word[tabindex]")) {
      for (const name of ["tabindex", "role", "aria-haspopup"]) old.removeAttribute(name);
    }
    word.tabIndex = 0;
    word.setAttribute("role", "button");
    if (focus) word.focus();
  }

  goTo(paragraph, word) {
    this.go([...(this.elements.get(paragraph)?.querySelectorAll(".word") ?? [])].find((one) => one.word === word));
  }

  // The keyboard comes in at the first word.
  enter() {
    if (!this.root.querySelector(".word[tabindex]")) this.go(this.root.querySelector(".word"), false);
  }

  playWord(element) {
    this.on.play(element.word.start, element.word.end);
  }

  menu(element) {
    this.go(element);
    this.on.menu(element.closest(".paragraph").paragraph, element.word, element);
  }

  // ---- editing

  edit(paragraph) {
    const row = this.elements.get(paragraph), words = paragraph.words;
    if (row.querySelector(".editor")) return;
    paragraph.editing = true; // words that come meanwhile begin another one
    const form = element("form", "editor"), field = element("textarea");
    const save = element("button", "main", "Save"), cancel = element("button", "", "Cancel");
    cancel.type = "button";
    field.value = textOf(paragraph);
    field.ariaLabel = `Text of the paragraph at ${clock(words[0].start)}`;
    field.spellcheck = true;
    const grow = () => { field.style.height = "auto"; field.style.height = `${field.scrollHeight + 4}px`; };
    const close = (changed) => {
      paragraph.editing = false;
      if (changed) this.transcript.replace(paragraph, rewritten(words, field.value));
      this.refresh(paragraph);
      if (changed) this.on.changed(paragraph);
      this.go(this.elements.get(paragraph)?.querySelector(".word"));
    };
    form.onsubmit = (event) => { event.preventDefault(); close(field.value !== textOf(paragraph)); };
    cancel.onclick = () => close(false);
    field.oninput = grow;
    field.onkeydown = (event) => {
      if (event.key === "Escape") close(false);
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
      event.stopPropagation();
    };
    form.append(field, save, cancel);
    row.querySelector(".words").replaceWith(form);
    row.querySelector(".edit").hidden = true;
    grow();
    field.focus();
  }

  // ---- playback

  // Mark the word that is heard; null: none.
  light(position) {
    for (const old of this.lit) old.classList.remove("heard");
    this.lit = [];
    if (position === null) return;
    for (const [paragraph, row] of this.elements) {
      if (paragraph.editing || position < paragraph.words[0].start || position > paragraph.words.at(-1).end) continue;
      for (const word of row.querySelectorAll(".word")) {
        if (word.word.start <= position && position < word.word.end) this.lit.push(word);
      }
    }
    for (const word of this.lit) word.classList.add("heard");
  }
}

function span(word, fresh) {
  const found = element("span", fresh ? "word fresh" : "word", word.word), times = `${word.start.toFixed(2)} to ${word.end.toFixed(2)} s`;
  found.word = word;
  const about = word.edited ? "corrected" : word.confidence === undefined ? "not finished" : `confidence ${Math.round(100 * word.confidence)} %`;
  found.title = `${times}, ${about}`;
  if (!word.edited && !(word.confidence >= SURE)) found.classList.add(word.confidence >= UNSURE ? "unsure" : "doubtful");
  return found;
}

export function element(name, className = "", text = "") {
  const found = document.createElement(name);
  if (className) found.className = className;
  found.textContent = text;
  return found;
}
