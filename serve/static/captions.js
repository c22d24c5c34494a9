// Live captions in large type: the last words, at the bottom of the screen, the newest always in view.

import { element } from "./view.js";

const KEPT = 120; // words
const SIZES = [0.6, 0.8, 1, 1.25, 1.6, 2];

export class Captions {
  constructor(dialog) {
    this.dialog = dialog;
    this.finals = dialog.querySelector("#caption-finals");
    this.partialText = dialog.querySelector("#caption-partial");
    this.size = Number(localStorage.getItem("caption-size") ?? 2);
    dialog.querySelector("#caption-smaller").onclick = () => this.resize(-1);
    dialog.querySelector("#caption-larger").onclick = () => this.resize(1);
    dialog.querySelector("#caption-close").onclick = () => dialog.close();
    dialog.querySelector("#caption-full").onclick = () =>
      document.fullscreenElement ? document.exitFullscreen() : dialog.requestFullscreen?.();
    dialog.onclose = () => document.fullscreenElement && document.exitFullscreen();
    this.resize(0);
  }

  open(transcript) {
    this.finals.replaceChildren(element("span", "", transcript.words.slice(-KEPT).map((word) => word.word).join(" ")), " ");
    this.dialog.showModal();
  }

  final(text) {
    this.finals.append(element("span", "", text), " ");
    while (this.finals.childElementCount > 1 && this.finals.textContent.split(" ").length > KEPT) this.finals.firstElementChild.remove();
    this.partial("");
  }

  partial(text) {
    this.partialText.textContent = text;
  }

  resize(step) {
    this.size = Math.max(0, Math.min(SIZES.length - 1, this.size + step));
    this.dialog.style.setProperty("--size", SIZES[this.size]);
    localStorage.setItem("caption-size", this.size);
  }
}
