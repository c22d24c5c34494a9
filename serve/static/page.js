// The page: its parts, joined.  Each part is a file: what comes in (live, upload, drop), what is kept (transcript, audio),
// and what is shown (view, follow, captions, menu, desk, player).

import { MediaFile, Recording } from "./audio.js";
import { Captions } from "./captions.js";
import { Desk } from "./desk.js";
import { dropped, media } from "./drop.js";
import { shared } from "./editing.js";
import { copy, save } from "./exports.js";
import { Follow } from "./follow.js";
import { Live } from "./live.js";
import { openMenu } from "./menu.js";
import { Player } from "./player.js";
import { models, withToken } from "./service.js";
import { Choices } from "./settings.js";
import { clock, Transcript } from "./transcript.js";
import { Queue } from "./upload.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const GROWING = new Set(["live", "uploading", "reading"]); // states in which text comes

const BEFORE = 0.08, AFTER = 0.12; // seconds played beside a word
const REFUSALS = {
  NotFoundError: "no microphone was found",
  NotAllowedError: "this page may not use the microphone: allow it beside the address",
};

let live = null; // the session of the microphone
let starting = false;
let single = null; // [start, end] of the word that is played alone
let unsaved = false; // words or edits that were not exported

const choices = new Choices($("choices"), () => ($("summary").textContent = choices.summary));
const captions = new Captions($("captions"));
const follow = new Follow($("text"), $("jump"));
const player = new Player(showPlayer);
const view = new View($("paragraphs"), { play, menu, changed: edited });
const desk = new Desk($("list"), { show, remove, retry });
const queue = new Queue((transcript, paragraph, fresh) => {
  if (!desk.entries.has(transcript)) return; // it was removed meanwhile
  desk.refresh(transcript);
  if (paragraph) heard(transcript, paragraph, fresh);
  if (transcript === desk.current) showState(transcript);
  refreshButtons();
});

function status(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

// ---- what is shown

function show(transcript) {
  stopPlaying();
  $("seek").value = 0;
  view.show(transcript ?? new Transcript(""));
  view.enter();
  $("name").value = transcript?.name ?? "";
  showPartial("", "");
  refreshButtons();
  follow.reset(GROWING.has(transcript?.state));
  if (transcript) showState(transcript);
}

function showState(transcript) {
  const percent = `${Math.round(100 * transcript.progress)} %`;
  const said = {
    waiting: transcript.problem ? `${transcript.problem}; trying again` : `${transcript.name} waits its turn`,
    uploading: `Sending ${transcript.name}: ${percent}`,
    reading: `Reading ${transcript.name}`,
    done: transcript.paragraphs.length ? "Done" : `No words in ${transcript.name}`,
    failed: transcript.problem.includes(transcript.name) ? transcript.problem : `${transcript.name}: ${transcript.problem}`,
  }[transcript.state];
  if (said && !live) status(said, transcript.state === "failed");
}

function refreshButtons() {
  const current = desk.current, some = Boolean(current?.paragraphs.length);
  for (const id of ["copy", "export"]) $(id).disabled = !some;
  $("clear").disabled = !current || current === live?.transcript;
  $("undo").hidden = !current?.edits.length;
  $("player").hidden = !current?.audio || !some;
  if (!player.playing) showClock(current);
  $("title").hidden = !current;
  $("all-row").hidden = desk.transcripts.filter((one) => one.paragraphs.length).length < 2;
  document.querySelector("[data-form=wav]").parentElement.hidden = !(current?.audio instanceof Recording);
  document.body.toggleAttribute("data-empty", !current);
  follow.growing = GROWING.has(current?.state);
}

// New words in a paragraph.
function heard(transcript, paragraph, fresh) {
  unsaved = true;
  if (transcript !== desk.current) return;
  view.refresh(paragraph, fresh);
  view.enter();
  refreshButtons();
  follow.grown();
}

function edited(paragraph) {
  unsaved = true;
  view.refresh(paragraph);
  view.enter();
  refreshButtons();
}

function undo() {
  const paragraph = desk.current?.undo();
  if (paragraph) edited(paragraph);
}

function showPartial(stable, rest) {
  $("partial-stable").textContent = stable;
  $("partial-rest").textContent = rest;
  follow.grown();
}

function menu(paragraph, word, at) {
  const use = (words) => {
    if (paragraph.editing) return;
    desk.current.replace(paragraph, paragraph.words.flatMap((one) => (one === word ? words : [one])));
    edited(paragraph);
    view.goTo(paragraph, words[0]);
  };
  openMenu(word, at, { play: () => view.playWord(at), use });
}

// ---- the microphone

async function startLive() {
  if (!window.isSecureContext || !navigator.mediaDevices) {
    openInsecureNote();
    return status("no microphone on this address", true);
  }
  if (starting) return;
  starting = true;
  try {
    await loadModels();
    status("Asking for the microphone");
    stopPlaying();
    live = new Live(choices.session, { open, ready, level, sent, message, over });
    await live.start();
  } catch (error) {
    live = null;
    status(REFUSALS[error.name] ?? error.message, true);
  } finally {
    starting = false;
  }
}

// A recording goes on where it stopped, unless another transcript is shown.
function recordingFor(rate) {
  const current = desk.current;
  if (current?.audio instanceof Recording && current.audio.rate === rate) return current;
  const transcript = new Transcript(`Recording ${new Date().toLocaleString("sv").slice(0, 16).replace(":", ".")}`, new Recording(rate));
  desk.add(transcript);
  return transcript;
}

function open(rate) {
  const transcript = recordingFor(rate);
  Object.assign(live, { transcript, offset: transcript.seconds });
  Object.assign(transcript, { state: "live", problem: "" });
  desk.show(transcript);
  showMic(true);
}

function ready(message) {
  const unusable = Object.keys(message.unusable ?? {});
  status(unusable.length ? `Listening, but not for ${unusable.join(", ")}: the model cannot write it` : "Listening");
}

function level(value) {
  $("level").value = value;
}

function sent(samples) {
  live.transcript.audio.add(samples);
}

function message(news) {
  const { transcript, offset } = live;
  if (news.type === "partial" || news.type === "final") live.unfinished = news.type === "partial" ? news.text : "";
  if (news.type === "partial") {
    if (transcript === desk.current) showPartial(news.stable, news.text.slice(news.stable.length));
    captions.partial(news.text);
  } else if (news.type === "final") {
    const paragraph = transcript.add(news, offset);
    if (transcript === desk.current) showPartial("", "");
    if (paragraph) heard(transcript, paragraph, news.words.length);
    captions.final(news.text);
    $("announcer").textContent = news.text; // finals alone: partials would be read again and again
  } else if (news.type === "done") {
    transcript.seconds = offset + news.seconds;
  }
  if (news.until !== undefined) showNumbers(live.seconds - news.until);
}

function showNumbers(behind) {
  $("numbers").textContent = `${clock(live.offset + live.seconds)} · ${Math.max(0, behind).toFixed(1)} s behind`;
}

function over(problem, broke) {
  const { transcript } = live;
  if (broke) keepUnfinished(live);
  transcript.seconds = transcript.audio.seconds;
  Object.assign(transcript, broke ? { state: "failed", problem } : { state: "" });
  live = null;
  showMic(false);
  level(0);
  showPartial("", "");
  captions.partial("");
  $("numbers").textContent = "";
  desk.refresh(transcript);
  refreshButtons();
  status(problem || "Done", Boolean(problem));
}

// What was not final when the connection broke; its times are rough.
function keepUnfinished({ transcript, offset, unfinished }) {
  const tokens = unfinished?.split(" ").filter(Boolean) ?? [];
  if (!tokens.length) return;
  const start = Math.max(offset, transcript.words.at(-1)?.end ?? 0);
  heard(transcript, transcript.add({ words: shared(tokens, start, transcript.audio.seconds) }), 0);
}

function toggleMic() {
  if (!live) return startLive();
  status("Finishing");
  live.stop();
}

function showMic(on) {
  for (const id of ["mic", "caption-mic"]) $(id).ariaPressed = String(on);
  for (const id of ["mic-label", "caption-mic"]) $(id).textContent = on ? "Stop" : "Speak";
  document.body.toggleAttribute("data-live", on);
}

// ---- files

async function addFiles(files) {
  const found = media(files);
  if (!found.length) return status(files.length ? "no audio or video in these files" : "an empty folder", true);
  await loadModels().catch((error) => status(error.message, true)); // each file says so too, and can be tried again
  const added = found.map((file) => new Transcript(file.name, new MediaFile(file)));
  added.forEach((transcript) => desk.add(transcript));
  if (!live) desk.show(added[0]);
  for (const transcript of added) queue.add(transcript, transcript.audio.original, choices.fields);
  if (found.length < files.length) status(`${files.length - found.length} files that are no audio or video were left out`);
}

function retry(transcript) {
  transcript.paragraphs = [];
  transcript.edits = [];
  if (transcript === desk.current) show(transcript);
  queue.add(transcript, transcript.audio.original ?? new File([transcript.audio.file], "recording.wav"), choices.fields);
}

function remove(transcript) {
  queue.remove(transcript);
  desk.remove(transcript);
  if (!desk.transcripts.length) unsaved = false;
}

// ---- playing

// Play from a time on, or one word, with a little of what is around it.
async function play(from, to) {
  try {
    const recording = await desk.current.audio.open();
    single = to === undefined ? null : [from, to];
    if (single) await player.play(recording, Math.max(0, from - BEFORE), to + AFTER);
    else await player.play(recording, from);
  } catch (error) {
    status(error.message, true);
  }
}

function stopPlaying() {
  player.stop();
}

function showPlayer() {
  const { position } = player;
  view.light(position !== null && single ? single[0] : position);
  $("play").textContent = player.playing ? "Pause" : "Play";
  if (position === null) return;
  $("seek").value = position;
  showClock(desk.current);
}

function showClock(transcript) {
  const seconds = transcript?.audio?.seconds ?? transcript?.seconds ?? 0;
  $("seek").max = Math.max(seconds, 0.1);
  $("clock").textContent = `${clock($("seek").value)} / ${clock(seconds)}`;
}

// ---- controls

async function loadModels() {
  choices.models = await models();
  $("summary").textContent = choices.summary;
}

async function exportAs(form) {
  const all = $("all").checked && !$("all-row").hidden;
  const wanted = all ? desk.transcripts.filter((one) => one.paragraphs.length) : [desk.current];
  try {
    for (const one of wanted) if (form !== "wav" || one.audio instanceof Recording) await save(one, form);
    unsaved = false;
    $("export-menu").hidePopover();
  } catch (error) {
    status(`not exported: ${error.message}`, true);
  }
}

function openInsecureNote() {
  $("origin").textContent = location.origin;
  $("local").href = `${location.protocol}//localhost:${location.port || 80}/`;
  $("tunnel").textContent = `ssh -L ${location.port || 80}:localhost:${location.port || 80} ${location.hostname}`;
  $("insecure").hidden = false;
}

function theme() {
  return document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function showTheme() {
  $("theme").textContent = theme() === "dark" ? "Light" : "Dark"; // where the button leads
}

$("theme").onclick = () => {
  document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
  localStorage.setItem("theme", theme());
  showTheme();
};
for (const id of ["mic", "caption-mic"]) $(id).onclick = toggleMic;
$("open-captions").onclick = () => captions.open(live?.transcript ?? desk.current ?? new Transcript(""));
$("open-settings").onclick = () => $("settings").showModal();
$("docs").onclick = (event) => { event.currentTarget.href = withToken(new URL("docs", document.baseURI)); };
$("open-files").onclick = () => $("files").click();
$("open-folder").onclick = () => $("folder").click();
$("open-folder").hidden = !("webkitdirectory" in $("folder")) || matchMedia("(pointer: coarse)").matches;
for (const id of ["files", "folder"]) {
  $(id).onchange = () => {
    addFiles([...$(id).files]);
    $(id).value = "";
  };
}
$("name").onchange = () => {
  desk.current.name = $("name").value.trim() || desk.current.name;
  desk.refresh(desk.current);
};
$("play").onclick = () => {
  if (player.playing) return stopPlaying();
  const { value, max } = $("seek");
  play(max - value < 0.2 ? 0 : Number(value)); // at the end: from the beginning
};
$("seek").oninput = () => (player.playing ? play(Number($("seek").value)) : showClock(desk.current));
$("undo").onclick = undo;
$("clear").onclick = () => {
  if (confirm(`Remove "${desk.current.name}" from this page?`)) remove(desk.current);
};
$("copy").onclick = () => copy(desk.current.text).then(() => status("Copied"), (error) => status(error.message, true));
for (const button of document.querySelectorAll("[data-form]")) button.onclick = () => exportAs(button.dataset.form);

document.ondragover = (event) => {
  event.preventDefault();
  document.body.toggleAttribute("data-over", true);
};
document.ondragleave = (event) => {
  if (!event.relatedTarget) document.body.toggleAttribute("data-over", false); // it left the window
};
document.ondrop = async (event) => {
  event.preventDefault();
  document.body.toggleAttribute("data-over", false);
  addFiles(await dropped(event.dataTransfer));
};
document.onkeydown = (event) => {
  if (document.querySelector("dialog:modal") || event.target.closest("input, textarea, select")) return;
  if (event.key === " " && !event.defaultPrevented && !event.target.closest("button, a, summary")) {
    event.preventDefault();
    if (!event.repeat) toggleMic();
  } else if (event.key === "Escape") stopPlaying();
  else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) undo();
};
window.onbeforeunload = (event) => {
  if (live || queue.busy || unsaved) event.preventDefault(); // the browser asks whether to leave
};

showTheme();
matchMedia("(prefers-color-scheme: dark)").onchange = showTheme;
if (!window.isSecureContext || !navigator.mediaDevices) openInsecureNote();
refreshButtons();
if (!sessionStorage.getItem("token")) fetchQuietly();
else loadModels().catch(() => {});

// The models, if they can be had without asking for a token: it is asked for when it is needed.
async function fetchQuietly() {
  const answer = await fetch("v1/models").catch(() => null);
  if (answer?.ok) loadModels();
}
