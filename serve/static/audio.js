// Audio that stays in the browser, so that words can be played: what was recorded, or a file.
// It is played from samples, not from a blob: URL, which the page's Content-Security-Policy does not allow.

const PART = 10; // seconds that are put into a Blob at a time; a browser keeps large Blobs on disk
const RATE = 16000; // samples a second of decoded files, as the models hear them
const MOST_BYTES = 400e6; // of a file that is decoded: it is in memory as a whole meanwhile

// Mono samples of 16 bits.
export class Recording {
  constructor(rate) {
    this.rate = rate;
    this.parts = [];
    this.waiting = [];
    this.held = 0; // samples in `waiting`
    this.samples = 0;
  }

  get seconds() {
    return this.samples / this.rate;
  }

  add(samples) {
    this.waiting.push(Int16Array.from(samples, (x) => Math.max(-1, Math.min(1, x)) * 32767));
    this.held += samples.length;
    this.samples += samples.length;
    if (this.held >= PART * this.rate) {
      this.parts.push(new Blob(this.waiting));
      [this.waiting, this.held] = [[], 0];
    }
  }

  get bytes() {
    return new Blob([...this.parts, ...this.waiting]);
  }

  async slice(from, to) {
    const [a, b] = [from, to].map((seconds) => 2 * Math.max(0, Math.round(seconds * this.rate)));
    const found = new Int16Array(await this.bytes.slice(a, b).arrayBuffer());
    return Float32Array.from(found, (x) => x / 32768);
  }

  // A WAV file.
  get file() {
    const head = new DataView(new ArrayBuffer(44)), size = 2 * this.samples;
    const write = (at, text) => [...text].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
    write(0, "RIFF");
    head.setUint32(4, 36 + size, true);
    write(8, "WAVEfmt ");
    head.setUint32(16, 16, true); // bytes of the format that follows
    head.setUint16(20, 1, true); // PCM
    head.setUint16(22, 1, true); // channels
    head.setUint32(24, this.rate, true);
    head.setUint32(28, 2 * this.rate, true);
    head.setUint16(32, 2, true); // bytes of a sample of all channels
    head.setUint16(34, 16, true); // bits
    write(36, "data");
    head.setUint32(40, size, true);
    return new Blob([head, ...this.parts, ...this.waiting], { type: "audio/wav" });
  }

  async open() {
    return this;
  }
}

// A file that was opened; it is decoded when it is first played.
export class MediaFile {
  constructor(file) {
    this.original = file;
    this.opening = null;
  }

  open() {
    return (this.opening ??= this.decode());
  }

  async decode() {
    if (this.original.size > MOST_BYTES) throw new Error("this file is too large to be played here");
    const context = new OfflineAudioContext(1, 1, RATE);
    let buffer;
    try {
      buffer = await context.decodeAudioData(await this.original.arrayBuffer());
    } catch {
      throw new Error("this browser cannot play this kind of file");
    }
    const channels = Array.from({ length: buffer.numberOfChannels }, (_, i) => buffer.getChannelData(i));
    const recording = new Recording(RATE);
    for (let at = 0; at < buffer.length; at += RATE) {
      const mixed = new Float32Array(Math.min(RATE, buffer.length - at));
      for (const channel of channels) mixed.forEach((x, i) => (mixed[i] = x + channel[at + i] / channels.length));
      recording.add(mixed);
    }
    return recording;
  }
}
