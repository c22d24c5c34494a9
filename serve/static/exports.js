// Files of a transcript: text, subtitles, all data, and the audio that was recorded.

import { MEDIA } from "./drop.js";
import { call, reason } from "./service.js";

const KINDS = { txt: "text/plain", srt: "application/x-subrip", vtt: "text/vtt", json: "application/json", wav: "audio/wav" };
const RETRIES = 5;

export async function save(transcript, form) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([await content(transcript, form)], { type: KINDS[form] }));
  link.download = `${stem(transcript.name)}.${form}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export async function content(transcript, form) {
  if (form === "txt") return `${transcript.text}\n`;
  if (form === "json") return `${JSON.stringify(transcript.data, null, 2)}\n`;
  if (form === "wav") return transcript.audio.file;
  return subtitles(transcript.words, form);
}

// The service cuts subtitles, by the rules of `samba-asr transcribe`.
async function subtitles(words, format) {
  const body = JSON.stringify({ format, words: words.map(({ word, start, end }) => ({ word: word.slice(0, 200), start, end })) });
  for (let i = 0; ; i++) {
    const answer = await call("v1/subtitles", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    if (answer.ok) return answer.text();
    if (answer.status !== 503 || i === RETRIES) throw new Error(await reason(answer));
    await new Promise((next) => setTimeout(next, 1000));
  }
}

function stem(name) {
  return name.replace(MEDIA, "").replace(/[\\/:*?"<>|\x00-\x1f]+/g, "-").trim() || "transcript";
}

export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement("textarea"); // on http:// of another machine there is no clipboard
  field.value = text;
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  if (!copied) throw new Error("this browser does not let the page copy: select the text instead");
}
