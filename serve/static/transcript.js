// A transcript: paragraphs of words with times in seconds, and the audio that it was made from.
//
//   word       {word, start, end, confidence, spoken?, alternatives?, edited?}, as in the service's messages
//   paragraph  {words, editing}

export const PAUSE = 2; // seconds of silence that begin a paragraph
export const LONG = 60; // words after which the end of a sentence ends a paragraph
const SENTENCE = /[.?!]["')\]]*$/;

export class Transcript {
  constructor(name, audio = null) {
    this.name = name;
    this.audio = audio; // of audio.js
    this.paragraphs = [];
    this.seconds = 0; // of audio that was transcribed
    this.state = ""; // of a file: waiting, uploading, reading, done, failed
    this.progress = 0; // 0 to 1 while uploading or reading
    this.problem = "";
    this.edits = []; // to undo
  }

  // Add a finished segment; return its paragraph.  offset: seconds of the recording before this session.
  add(final, offset = 0) {
    const words = final.words.map((word) => ({ ...word, start: word.start + offset, end: word.end + offset }));
    if (!words.length) return null;
    let last = this.paragraphs.at(-1);
    if (!last || last.editing || begins(last, words[0])) this.paragraphs.push((last = { words: [], editing: false }));
    last.words.push(...words);
    return last;
  }

  // Replace the words of a paragraph; one without words goes.
  replace(paragraph, words) {
    this.edits.push({ paragraphs: [...this.paragraphs], paragraph, words: paragraph.words, after: words.length });
    paragraph.words = words;
    if (!words.length) this.paragraphs = this.paragraphs.filter((one) => one !== paragraph);
  }

  // Take back the last change, but not what was heard since; return its paragraph.
  undo() {
    const last = this.edits.pop();
    if (!last) return null;
    last.paragraph.words = [...last.words, ...last.paragraph.words.slice(last.after)];
    if (!this.paragraphs.includes(last.paragraph)) {
      const before = last.paragraphs.slice(0, last.paragraphs.indexOf(last.paragraph)).filter((one) => this.paragraphs.includes(one));
      this.paragraphs.splice(before.length, 0, last.paragraph);
    }
    return last.paragraph;
  }

  get words() {
    return this.paragraphs.flatMap((paragraph) => paragraph.words);
  }

  get text() {
    return this.paragraphs.map(textOf).join("\n\n");
  }

  // The form of `samba-asr transcribe --format json`.
  get data() {
    const words = this.words;
    return {
      audio: this.name,
      text: words.map((word) => word.word).join(" "),
      segments: this.paragraphs.map((one) => ({ text: textOf(one), start: one.words[0].start, end: one.words.at(-1).end })),
      words,
      duration: this.seconds,
      spoken: { text: words.flatMap((word) => word.spoken ?? [word.word]).join(" ") },
    };
  }
}

export function textOf(paragraph) {
  return paragraph.words.map((word) => word.word).join(" ");
}

function begins(last, word) {
  const before = last.words.at(-1);
  if (word.start - before.end >= PAUSE || last.words.length >= 3 * LONG) return true;
  return last.words.length >= LONG && SENTENCE.test(before.word);
}

// 0:07, 12:34, 1:02:03
export function clock(seconds) {
  const whole = Math.floor(seconds), two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}
