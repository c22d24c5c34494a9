// Keep the newest line in view, until the reader scrolls up; a button leads back.

const NEAR = 48; // pixels from the end that count as the end

export class Follow {
  constructor(scroller, button) {
    this.scroller = scroller;
    this.button = button;
    this.following = true;
    this.growing = false; // whether there is a "now"
    this.top = 0;
    scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    button.onclick = () => this.jump();
    new ResizeObserver(() => this.grown()).observe(scroller);
  }

  get rest() {
    return this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight;
  }

  scrolled() {
    const up = this.scroller.scrollTop < this.top;
    this.top = this.scroller.scrollTop;
    if (this.rest < NEAR) this.following = true;
    else if (up) this.following = false; // text that grows moves nothing up
    this.show();
  }

  // To be called when text was added.
  grown() {
    if (this.following) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.top = this.scroller.scrollTop;
    this.show();
  }

  show() {
    this.button.hidden = this.following || !this.growing || this.rest < NEAR;
  }

  jump() {
    this.following = true;
    this.grown();
    this.scroller.focus();
  }

  // Another text is shown, from its beginning or its end.
  reset(atEnd) {
    this.following = atEnd;
    this.scroller.scrollTop = atEnd ? this.scroller.scrollHeight : 0;
    this.top = this.scroller.scrollTop;
    this.show();
  }
}
