// Plays a part of a recording, ten seconds at a time.

const PIECE = 10; // seconds
const AHEAD = 2; // seconds before the end of a piece at which the next is fetched

export class Player {
  constructor(onchange) {
    this.onchange = onchange; // called when playing begins, moves on, and ends
    this.context = null;
    this.run = null;
  }

  get playing() {
    return this.run !== null;
  }

  // Seconds of the recording that are heard now.
  get position() {
    return this.run ? Math.max(this.run.from, this.context.currentTime - this.run.origin) : null;
  }

  async play(recording, from, to = recording.seconds) {
    this.stop();
    this.context ??= new AudioContext();
    const run = { sources: [], from, origin: 0 };
    this.run = run;
    await this.context.resume();
    let at = from, when = this.context.currentTime + 0.05;
    run.origin = when - from;
    this.watch(run);
    while (at < to) {
      const samples = await recording.slice(at, Math.min(at + PIECE, to));
      if (this.run !== run || !samples.length) break;
      const buffer = this.context.createBuffer(1, samples.length, recording.rate);
      buffer.copyToChannel(samples, 0);
      when = Math.max(when, this.context.currentTime);
      run.origin = when - at;
      const source = new AudioBufferSourceNode(this.context, { buffer });
      source.connect(this.context.destination);
      source.start(when);
      run.sources.push(source);
      at += PIECE;
      when += buffer.duration;
      await this.until(run, when - (at < to ? AHEAD : 0));
      if (this.run !== run) return;
    }
    if (this.run === run) this.stop();
  }

  stop() {
    const run = this.run;
    if (!run) return;
    this.run = null;
    for (const source of run.sources) source.stop();
    this.onchange();
  }

  async until(run, time) {
    while (this.run === run && this.context.currentTime < time) await new Promise((next) => setTimeout(next, 20));
  }

  watch(run) {
    if (this.run !== run) return;
    this.onchange();
    requestAnimationFrame(() => this.watch(run));
  }
}
