// The queue of files: one is sent at a time, and its text comes as it is read.

import { address, askForToken, headers, reasonIn } from "./service.js";

export class Queue {
  constructor(onchange) {
    this.onchange = onchange; // (transcript, the paragraph of new words or null, their number)
    this.waiting = [];
    this.request = null;
    this.current = null;
  }

  get busy() {
    return this.current !== null;
  }

  add(transcript, file, fields) {
    transcript.state = "waiting";
    transcript.problem = "";
    this.waiting.push({ transcript, file, fields });
    this.onchange(transcript);
    this.next();
  }

  // Leave a file out, also the one that is being read.
  remove(transcript) {
    this.waiting = this.waiting.filter((job) => job.transcript !== transcript);
    if (this.current?.transcript === transcript) {
      this.current.gone = true;
      this.request?.abort();
    }
  }

  async next() {
    if (this.current || !this.waiting.length) return;
    const job = (this.current = this.waiting.shift());
    const { transcript } = job;
    try {
      while (!job.gone && !(await this.send(job)));
      transcript.state = "done";
    } catch (error) {
      [transcript.state, transcript.problem] = ["failed", error.message];
    }
    this.current = this.request = null;
    this.onchange(transcript);
    this.next();
  }

  // Send a file; false if the service asks to try again.
  async send(job) {
    const { transcript } = job;
    const form = new FormData();
    for (const [name, value] of Object.entries(job.fields)) form.set(name, value);
    form.set("response_format", "verbose_json");
    form.set("stream", "true");
    form.set("file", job.file);
    Object.assign(transcript, { state: "uploading", progress: 0 });
    this.onchange(transcript);
    const request = (this.request = new XMLHttpRequest()); // fetch cannot tell how much was sent
    request.open("POST", address("v1/audio/transcriptions"));
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => {
      transcript.progress = event.total ? event.loaded / event.total : 0;
      if (event.loaded === event.total) transcript.state = "reading";
      this.onchange(transcript);
    };
    const events = new Events((event) => this.receive(transcript, event));
    request.onprogress = () => request.status === 200 && events.read(request.responseText);
    await new Promise((done, failed) => {
      request.onload = done;
      request.onerror = () => failed(new Error("the connection broke"));
      request.onabort = done;
      request.send(form);
    });
    if (job.gone) return true;
    if (request.status === 503) {
      transcript.state = "waiting";
      transcript.problem = "the service is busy";
      this.onchange(transcript);
      await new Promise((next) => setTimeout(next, 1000 * (Number(request.getResponseHeader("Retry-After")) || 5)));
      transcript.problem = "";
      return false;
    }
    if (request.status === 401) return askForToken().then(() => false);
    if (request.status !== 200) throw new Error(reasonIn(request.responseText, request.status));
    events.read(request.responseText);
    if (!events.finished) throw new Error(events.problem || "the connection broke");
    return true;
  }

  receive(transcript, event) {
    transcript.state = "reading";
    if (event.duration) transcript.seconds = event.duration;
    if (event.segment) this.onchange(transcript, transcript.add(event.segment), event.segment.words.length);
  }
}

// Server-sent events in a text that grows.
class Events {
  constructor(receive) {
    this.receive = receive;
    this.at = 0;
    this.finished = false;
    this.problem = "";
  }

  read(text) {
    for (let end; (end = text.indexOf("\n\n", this.at)) >= 0; this.at = end + 2) {
      const event = JSON.parse(text.slice(this.at, end).replace(/^data: /, ""));
      if (event.error) this.problem = event.error.message;
      else this.receive(event);
      if (event.type === "transcript.text.done") this.finished = true;
    }
  }
}
