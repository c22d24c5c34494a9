"use strict";
// A page without libraries: it sends a microphone or a file to the service, and shows words as they come.
const $ = (id) => document.getElementById(id);
const finals = [];           // messages of the service, times in seconds
let live = null;             // {socket, context, stream, sent, began}
let offset = 0;              // seconds of earlier recordings on this page

function status(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function token() { return sessionStorage.getItem("token") || ""; }

async function askForToken() {
  $("ask").showModal();
  await new Promise((done) => $("ask").addEventListener("close", done, { once: true }));
  sessionStorage.setItem("token", $("token").value.trim());
}

async function allowed() {
  for (;;) {
    const answer = await fetch("v1/models", { headers: token() ? { Authorization: `Bearer ${token()}` } : {} });
    if (answer.status !== 401) return answer.ok;
    await askForToken();
  }
}

// ---- display

function color(confidence) { return `hsl(${Math.round(120 * confidence)} 70% 40%)`; }

function showFinal(message) {
  finals.push(message);
  for (const w of message.words) {
    const span = document.createElement("span");
    span.className = "word fresh";
    span.textContent = w.word;
    span.style.borderColor = color(w.confidence);
    span.title = `${w.start.toFixed(2)} – ${w.end.toFixed(2)} s, confidence ${Math.round(100 * w.confidence)} %`;
    $("finals").append(span, " ");
  }
  $("partial").replaceChildren();
  for (const b of document.querySelectorAll(".after button")) b.disabled = false;
}

function showPartial(message) {
  const stable = document.createElement("b"), rest = document.createElement("i");
  stable.textContent = message.stable;
  rest.textContent = message.text.slice(message.stable.length);
  $("partial").replaceChildren(stable, rest);
}

// ---- the microphone

async function start() {
  if (!(await allowed())) return status("the service refuses this page", true);
  $("hint").hidden = true;
  status("asking for the microphone");
  let stream;
  try {
    const audio = { channelCount: 1, echoCancellation: true, noiseSuppression: false, autoGainControl: true };
    stream = await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    return status(`no microphone: ${error.message}`, true);
  }
  const context = new AudioContext();
  await context.audioWorklet.addModule("capture.js");
  const url = new URL("v1/stream", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  if (token()) url.searchParams.set("token", token());
  const socket = new WebSocket(url);
  live = { socket, context, stream, sent: 0, ready: false };
  socket.onopen = () => socket.send(JSON.stringify({
    type: "start", sample_rate: context.sampleRate, encoding: "pcm_f32le", text: "written", latency_ms: Number($("latency").value),
  }));
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = () => over();
  const node = new AudioWorkletNode(context, "capture");
  node.port.onmessage = (event) => send(event.data);
  context.createMediaStreamSource(stream).connect(node);
  node.connect(context.destination);   // the node is silent, but it runs only when connected
  $("mic").setAttribute("aria-pressed", "true");
  $("mic-label").textContent = "Stop";
}

function send(buffer) {
  if (!live) return;
  const samples = new Float32Array(buffer);
  let power = 0;
  for (const x of samples) power += x * x;
  $("level").value = Math.min(1, Math.sqrt(power / samples.length) * 5);
  if (live.ready && !live.stopping && live.socket.readyState === WebSocket.OPEN) {
    live.socket.send(buffer);
    live.sent += samples.length / live.context.sampleRate;
  }
}

function receive(message) {
  switch (message.type) {
    case "ready": live.ready = true; status("listening"); break;
    case "partial": showPartial(message); break;
    case "final": {
      const lag = live ? live.sent - message.until : 0;
      for (const part of [message, ...message.words]) { part.start += offset; part.end += offset; }
      showFinal(message);
      $("numbers").textContent = `${(offset + (live ? live.sent : 0)).toFixed(1)} s received, lag ${Math.max(0, lag).toFixed(1)} s`;
      break;
    }
    case "error": status(message.message, true); live.failed = true; break;
    case "done": offset += message.seconds; break;
  }
}

function stop() {
  if (!live || live.stopping) return;
  live.stopping = true;
  for (const track of live.stream.getTracks()) track.stop();
  if (live.socket.readyState === WebSocket.OPEN) live.socket.send(JSON.stringify({ type: "stop" }));
  status("finishing");
}

function over() {
  if (!live) return;
  for (const track of live.stream.getTracks()) track.stop();
  live.context.close();
  if (!live.stopping && !live.failed) status("the connection broke", true);
  else if (!live.failed) status("done");
  live = null;
  $("level").value = 0;
  $("partial").replaceChildren();
  $("mic").setAttribute("aria-pressed", "false");
  $("mic-label").textContent = "Speak";
}

// ---- files

async function transcribe(file) {
  if (!file || !(await allowed())) return;
  $("hint").hidden = true;
  status(`transcribing ${file.name}`);
  const form = new FormData();
  form.set("file", file);
  form.set("response_format", "verbose_json");
  const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
  const answer = await fetch("v1/audio/transcriptions", { method: "POST", body: form, headers });
  const result = await answer.json();
  if (!answer.ok) return status(result.error.message, true);
  for (const s of result.segments) {
    const words = result.words.filter((w) => w.start >= s.start && w.end <= s.end).map((w) => ({ ...w, start: w.start + offset, end: w.end + offset }));
    showFinal({ ...s, start: s.start + offset, end: s.end + offset, words });
  }
  offset += result.duration;
  status(result.segments.length ? "done" : "no words in this file");
}

// ---- downloads

function clock(seconds, mark) {
  const ms = Math.round(seconds * 1000), two = (n) => String(n).padStart(2, "0");
  return `${two(Math.floor(ms / 3600000))}:${two(Math.floor(ms / 60000) % 60)}:${two(Math.floor(ms / 1000) % 60)}${mark}${String(ms % 1000).padStart(3, "0")}`;
}

function render(form) {
  const cue = (f, mark) => `${clock(f.start, mark)} --> ${clock(f.end, mark)}\n${f.text}\n`;
  if (form === "txt") return finals.map((f) => f.text).join("\n") + "\n";
  if (form === "srt") return finals.map((f, i) => `${i + 1}\n${cue(f, ",")}`).join("\n");
  if (form === "vtt") return "WEBVTT\n\n" + finals.map((f) => cue(f, ".")).join("\n");
  return JSON.stringify({ text: finals.map((f) => f.text).join(" "), segments: finals }, null, 2);
}

function download(form) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([render(form)], { type: "text/plain" }));
  link.download = `transcript.${form}`;
  link.click();
  URL.revokeObjectURL(link.href);
}

// ---- controls

$("mic").onclick = () => (live ? stop() : start());
$("file").onchange = (event) => { transcribe(event.target.files[0]); event.target.value = ""; };
document.querySelector(".file").onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); $("file").click(); } };
document.onkeydown = (event) => { if (event.key === " " && (event.target === document.body || event.target === $("text"))) { event.preventDefault(); $("mic").click(); } };
document.ondragover = (event) => { event.preventDefault(); $("text").classList.add("over"); };
document.ondragleave = () => $("text").classList.remove("over");
document.ondrop = (event) => { event.preventDefault(); $("text").classList.remove("over"); transcribe(event.dataTransfer.files[0]); };
for (const button of document.querySelectorAll("[data-form]")) button.onclick = () => download(button.dataset.form);
$("clear").onclick = () => { finals.length = 0; offset = 0; $("finals").replaceChildren(); $("numbers").textContent = ""; for (const b of document.querySelectorAll(".after button")) b.disabled = true; };
