// A live session: the microphone's samples go up, messages come down (serve/README.md, "Protocol").

import { socket } from "./service.js";

const ALTERNATIVES = 5; // of each word, at most

export class Live {
  // on: {open(rate), ready(message), level(0 to 1), sent(samples), message(message), over(problem, broke)}
  constructor(options, on) {
    this.options = options; // model, latency_ms, text, itn, hotwords
    this.on = on;
    this.seconds = 0; // of audio sent
    this.began = this.stopping = this.finished = false;
    this.early = []; // samples from before the socket was open
    this.problem = "";
  }

  async start() {
    const audio = { channelCount: 1, echoCancellation: true, noiseSuppression: false, autoGainControl: true };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio });
    try {
      this.context = new AudioContext();
      await this.context.audioWorklet.addModule("capture.js");
      const format = { sample_rate: this.context.sampleRate, encoding: "pcm_f32le" };
      const start = { type: "start", alternatives: ALTERNATIVES, ...format, ...this.options };
      this.on.open(this.rate);
      this.socket = socket();
      this.socket.onopen = () => this.begin(start);
      this.socket.onmessage = (event) => this.receive(JSON.parse(event.data));
      this.socket.onclose = () => this.over();
      const node = new AudioWorkletNode(this.context, "capture");
      node.port.onmessage = (event) => this.send(new Float32Array(event.data));
      this.context.createMediaStreamSource(this.stream).connect(node);
      node.connect(this.context.destination); // the node is silent, but it runs only when connected
      await this.context.resume();
    } catch (error) {
      this.release();
      throw error;
    }
    this.stream.getAudioTracks()[0].onended = () => this.stop(); // it was unplugged
    const awake = navigator.wakeLock?.request("screen"); // a phone must not fall asleep
    awake?.then((lock) => (this.released ? lock.release() : (this.lock = lock)), () => {});
  }

  get rate() {
    return this.context.sampleRate;
  }

  send(samples) {
    const power = samples.reduce((sum, x) => sum + x * x, 0) / samples.length;
    this.on.level(Math.min(1, Math.sqrt(power) * 5));
    if (this.stopping) return;
    if (this.began) this.pass(samples);
    else this.early.push(samples);
  }

  begin(start) {
    this.socket.send(JSON.stringify(start));
    this.began = true;
    for (const samples of this.early.splice(0)) this.pass(samples);
  }

  pass(samples) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(samples);
    this.seconds += samples.length / this.rate;
    this.on.sent(samples);
  }

  receive(message) {
    if (message.type === "ready") {
      this.on.ready(message);
    } else if (message.type === "error") {
      this.problem = message.message;
    } else {
      if (message.type === "done") this.finished = true;
      this.on.message(message);
    }
  }

  // End the session; its last words still come.
  stop() {
    if (this.stopping) return;
    this.stopping = true;
    for (const track of this.stream.getTracks()) track.stop();
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: "stop" }));
    else this.socket.close();
  }

  over() {
    this.release();
    const broke = !this.finished && !this.problem && (this.began || !this.stopping);
    this.on.over(broke ? "the connection broke; the recording is kept" : this.problem, broke);
  }

  release() {
    this.released = true;
    for (const track of this.stream.getTracks()) track.stop();
    if (this.context?.state !== "closed") this.context?.close();
    this.lock?.release();
  }
}
