// The stream of events, opened again whenever it ends, and what is to be said of it: live, late, or gone since when.

const LATE_S = 4;
const AGAIN_MS = 2000;
const HIDDEN_MS = 60_000; // a page that nobody sees does not listen for longer

export class Stream {
  // `on`: {history, snapshot, state}, each called with what has come; state with (word, when the daemon was last heard).
  constructor(url, on) {
    this.url = url;
    this.on = on;
    this.heard = null; // milliseconds since 1970
    this.down = this.full = false;
    this.source = null;
    this.hiding = null;
    document.addEventListener("visibilitychange", () => this.#visible());
    setInterval(() => this.#look(), 1000);
    this.open();
  }

  open() {
    this.close();
    const source = new EventSource(this.url);
    this.source = source;
    source.addEventListener("history", (event) => this.on.history(JSON.parse(event.data)));
    source.addEventListener("snapshot", (event) => {
      this.heard = Date.now();
      this.down = this.full = false;
      this.on.snapshot(JSON.parse(event.data));
      this.#look();
    });
    source.addEventListener("error", () => {
      this.down = true;
      this.full &&= source.readyState === EventSource.CLOSED;
      this.#look();
      if (source.readyState === EventSource.CLOSED && this.source === source) this.#refused();
    });
  }

  // The daemon answers, but not with a stream: then the browser does not try again by itself.
  #refused() {
    this.source = null;
    const found = (full) => {
      this.full = full;
      this.#look();
    };
    fetch("/livez").then((answer) => found(answer.ok), () => found(false));
    setTimeout(() => this.source || document.hidden || this.open(), AGAIN_MS);
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  #visible() {
    clearTimeout(this.hiding);
    if (document.hidden) this.hiding = setTimeout(() => this.close(), HIDDEN_MS);
    else if (this.source === null) this.open();
  }

  #look() {
    const late = this.heard !== null && Date.now() - this.heard > LATE_S * 1000;
    this.on.state(this.full ? "full" : this.down ? "gone" : this.heard === null ? "connecting" : late ? "late" : "live", this.heard);
  }
}
