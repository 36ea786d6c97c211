// A backend of router-daemon: it registers, again whenever it must, and hands each delivery to a function.
//
// Rules (docs/protocol.md has them all):
// - Each DELIVER is answered by exactly one ACK or NACK, also after a CANCEL, unless its registration has ended.
// - On every connection REGISTER comes first, with the same session; until REGISTERED comes, answers wait here.
// - A stream has no gaps: one that may have lost a piece with its connection ends in a NACK.
// - Handlers share one thread with the heartbeats: let a worker thread (node:worker_threads) do long computations.

import { randomBytes } from "node:crypto";
import { Link, frames, pack } from "./wire.js";

const REGISTER_TIMEOUT_MS = 3_000;
const RETRY_MS = 1_000;
const SILENT_BEATS = 3;
const MAY_PASS = new Set(["name_taken", "internal", "overloaded", "draining"]);

/** Thrown by a handler: the message itself is wrong, no other backend need try. */
export class Reject extends Error {}

/** Thrown by a handler: there is no room now, and the work was not begun. */
export class Busy extends Error {
  constructor(message = "busy", retryAfterMs = undefined) {
    super(message);
    this.retryAfterMs = retryAfterMs;
  }
}

export class Backend {
  #address;
  #header;
  #handlers;
  #link;
  #registered = false;
  #stopping = false;
  #jobs = new Map(); // delivery id -> { controller, streamed, broken, dropped }
  #waiting = []; // what to call when the registration is in force again, or has ended
  #heartbeatMs = 1_000;
  #unanswered = 0; // HEARTBEATs since the daemon's last message
  #timer;
  #ended;
  #finish;

  /**
   * `handlers` maps capabilities to functions of `{ body, header, signal }`. What one returns (bytes, text, an array of
   * frames, nothing) is the answer; an async generator streams what it yields. `signal` aborts when nobody wants the
   * answer any more. `keys` are further keys of REGISTER: slots, cost, zone, ...
   */
  constructor(name, handlers, { address = "tcp://127.0.0.1:5571", ...keys } = {}) {
    this.#address = address;
    this.#handlers = handlers;
    this.#header = { name, capabilities: Object.keys(handlers), session: randomBytes(16), ...keys };
  }

  /** Register and work; resolves after `stop()`, rejects where the daemon refuses the registration for good. */
  run() {
    this.#open();
    return (this.#ended = new Promise((resolve, reject) => (this.#finish = { resolve, reject })));
  }

  /** Take no more deliveries, finish the open ones (for `timeoutMs` at most), and leave. */
  async stop(timeoutMs = 10_000) {
    if (this.#stopping) return this.#ended;
    this.#stopping = true;
    const timer = setTimeout(() => this.#end(), timeoutMs);
    if (this.#registered) this.#link.send(pack("DRAIN", {}));
    else if (this.#jobs.size === 0) this.#end();
    return this.#ended.finally(() => clearTimeout(timer));
  }

  #open() {
    this.#registered = false;
    this.#link?.close();
    this.#link = new Link(this.#address, {
      onMessage: (message) => this.#onMessage(message),
      onConnect: () => this.#register(),
      onDisconnect: () => this.#pause(),
    });
    this.#after(REGISTER_TIMEOUT_MS, () => this.#open());
  }

  #register() {
    this.#registered = false;
    this.#link.send(pack("REGISTER", this.#header));
    this.#after(REGISTER_TIMEOUT_MS, () => this.#open());
  }

  /** Without a connection nothing is sent; the link makes a new one. */
  #pause() {
    this.#registered = false;
    clearTimeout(this.#timer);
    for (const job of this.#jobs.values()) {
      if (!job.streamed) continue;
      job.broken = true;
      job.controller.abort();
    }
  }

  #after(ms, act) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(act, ms);
  }

  /** Twice as often as asked for, so that one that is late costs nothing. */
  #beat() {
    if (++this.#unanswered > 2 * SILENT_BEATS) {
      this.#open(); // the daemon is gone, or the connection is
      return;
    }
    this.#link.send(() => this.#registered && pack("HEARTBEAT", { queue: this.#jobs.size }));
    this.#after(this.#heartbeatMs / 2, () => this.#beat());
  }

  #onMessage({ verb, header, body }) {
    this.#unanswered = 0;
    if (verb === "REGISTERED") this.#onRegistered(header);
    else if (verb === "DELIVER") this.#onDeliver(header, body);
    else if (verb === "CANCEL") this.#jobs.get(header.id)?.controller.abort();
    else if (verb === "BYE") this.#onBye();
    else if (verb === "ERROR") this.#onError(header);
  }

  #onRegistered({ heartbeat_ms: heartbeatMs }) {
    this.#registered = true;
    this.#heartbeatMs = heartbeatMs;
    for (const goOn of this.#waiting.splice(0)) goOn();
    if (this.#stopping) this.#link.send(pack("DRAIN", {}));
    this.#after(heartbeatMs / 2, () => this.#beat());
  }

  #onBye() {
    this.#registered = false;
    if (this.#stopping) {
      this.#end();
      return;
    }
    this.#drop();
    this.#after(RETRY_MS, () => this.#register());
  }

  #onError({ code, detail }) {
    if (code === "not_registered") {
      if (!this.#registered) return;
      this.#drop();
      this.#register();
    } else if (this.#registered) {
      console.warn(`router-daemon: ${code}: ${detail}`);
    } else if (MAY_PASS.has(code)) {
      this.#after(RETRY_MS, () => this.#register());
    } else {
      this.#end(new Error(`${code}: ${detail}`));
    }
  }

  /** The registration has ended: what is open has gone to others, and its results with it. */
  #drop() {
    for (const job of this.#jobs.values()) {
      job.dropped = true;
      job.controller.abort();
    }
    this.#jobs.clear();
    for (const goOn of this.#waiting.splice(0)) goOn();
  }

  #end(error) {
    clearTimeout(this.#timer);
    this.#drop();
    if (this.#registered) this.#link.send(pack("UNREGISTER", {})); // not after BYE
    this.#registered = false;
    this.#link.close(); // what was sent still leaves
    if (error) this.#finish.reject(error);
    else this.#finish.resolve();
  }

  async #onDeliver(header, body) {
    const job = { controller: new AbortController(), streamed: false, broken: false, dropped: false };
    this.#jobs.set(header.id, job);
    const answer = await this.#answer(header, body, job);
    await this.#send(answer, () => !job.dropped);
    if (!job.dropped) this.#jobs.delete(header.id);
  }

  /** The ACK or NACK of a delivery, after its PARTs. */
  async #answer({ id, ...header }, body, job) {
    try {
      const handler = this.#handlers[header.capability];
      let result = await handler({ body, header: { id, ...header }, signal: job.controller.signal });
      if (result?.[Symbol.asyncIterator]) result = await this.#stream(id, result, job);
      return pack("ACK", { id, queue: this.#jobs.size - 1 }, frames(result));
    } catch (error) {
      if (job.broken) return pack("NACK", { id, code: "failed", reason: "the connection was lost in the stream" });
      if (job.controller.signal.aborted) return pack("NACK", { id, code: "cancelled" });
      const code = error instanceof Reject ? "rejected" : error instanceof Busy ? "busy" : "failed";
      return pack("NACK", { id, code, reason: String(error.message), retry_after_ms: error.retryAfterMs });
    }
  }

  /** Send what a generator yields, no faster than the daemon takes it; what it returns goes into the ACK. */
  async #stream(id, pieces, job) {
    while (true) {
      const { value, done } = await pieces.next();
      if (job.broken || (job.controller.signal.aborted && !done)) {
        await pieces.return();
        throw job.controller.signal.reason;
      }
      if (done) return value;
      job.streamed = true;
      await this.#send(pack("PART", { id }, frames(value)), () => !job.broken && !job.dropped);
    }
  }

  /** Send an answer under a registration in force; resolves once it has left, or is not wanted any more. */
  async #send(message, wanted) {
    let left = false;
    while (!left && wanted()) {
      if (this.#registered) {
        await this.#link.send(() => (left = this.#registered && wanted()) && message);
      } else {
        await new Promise((goOn) => this.#waiting.push(goOn));
      }
    }
  }
}
