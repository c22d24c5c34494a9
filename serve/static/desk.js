// The list of transcripts: recordings and files, one of which is shown.

import { clock } from "./transcript.js";
import { element } from "./view.js";

const STATES = { waiting: "waiting", uploading: "sending", reading: "reading", live: "recording" };

export class Desk {
  // on: {show(transcript), remove(transcript), retry(transcript)}
  constructor(nav, on) {
    this.nav = nav;
    this.on = on;
    this.transcripts = [];
    this.current = null;
    this.entries = new Map();
  }

  add(transcript) {
    this.transcripts.push(transcript);
    const entry = element("li"), open = element("button", "open");
    const name = element("span", "name"), state = element("small"), bar = element("progress");
    const retry = element("button", "retry", "Try again"), remove = element("button", "remove");
    for (const button of [open, retry, remove]) button.type = "button";
    bar.max = 1;
    open.append(name, state);
    open.onclick = () => this.show(transcript);
    retry.onclick = () => this.on.retry(transcript);
    remove.onclick = () => this.on.remove(transcript);
    entry.append(open, remove, bar, retry);
    this.entries.set(transcript, { entry, open, name, state, bar, retry, remove });
    this.nav.querySelector("ul").append(entry);
    this.refresh(transcript);
  }

  remove(transcript) {
    const at = this.transcripts.indexOf(transcript);
    this.transcripts.splice(at, 1);
    this.entries.get(transcript).entry.remove();
    this.entries.delete(transcript);
    if (transcript === this.current) this.show(this.transcripts[Math.min(at, this.transcripts.length - 1)] ?? null);
    this.hideIfAlone();
  }

  // One transcript needs no list, unless it can be tried again there.
  hideIfAlone() {
    this.nav.hidden = this.transcripts.length < 2 && this.transcripts[0]?.state !== "failed";
  }

  show(transcript) {
    const before = this.current;
    this.current = transcript;
    for (const one of [before, transcript]) if (this.entries.has(one)) this.refresh(one);
    this.on.show(transcript);
  }

  refresh(transcript) {
    const { open, name, state, bar, retry, remove } = this.entries.get(transcript);
    const { progress, problem } = transcript, working = transcript.state === "uploading" || transcript.state === "reading";
    name.textContent = transcript.name;
    const last = transcript.paragraphs.at(-1)?.words.at(-1), at = transcript.state === "reading" && last ? clock(last.end) : "";
    state.textContent = problem || [STATES[transcript.state], at].filter(Boolean).join(", ");
    state.classList.toggle("bad", transcript.state === "failed");
    bar.hidden = !working;
    bar.ariaLabel = `Progress of ${transcript.name}`;
    if (transcript.state === "uploading") bar.value = progress;
    else bar.removeAttribute("value"); // how long reading takes is not known
    retry.hidden = transcript.state !== "failed";
    remove.hidden = transcript.state === "live";
    remove.ariaLabel = `Remove ${transcript.name}`;
    retry.ariaLabel = `Try again: ${transcript.name}`;
    if (transcript === this.current) open.setAttribute("aria-current", "true");
    else open.removeAttribute("aria-current");
    this.hideIfAlone();
  }
}
