// A client of router-daemon: send a message, await its answer.
//
// Rules (docs/protocol.md has them all):
// - An id is taken until the last message about it. Every call ends once: by that message, or by this client's own
//   clock at ttl + 1 s, for a daemon that was killed says nothing.
// - What comes of an id that is not open, and what is not known, is passed over.
// - A message that could not leave in time is never sent: nobody would wait for its answer.

import { Link, frames, pack } from "./wire.js";

const GRACE_MS = 1_000;
const STREAM_BYTES = 64 * 1024 * 1024;

/** What came instead of an answer. `retry` says whether sending the same again may help and is safe. */
export class RouterError extends Error {
  constructor(code, detail, { retry = false, retryAfterMs, backend } = {}) {
    super(`${code}: ${detail}`);
    this.name = "RouterError";
    Object.assign(this, { code, retry, retryAfterMs, backend });
  }

  static of({ code, detail, retry, retry_after_ms: retryAfterMs, backend }) {
    return new RouterError(code, detail, { retry, retryAfterMs, backend });
  }
}

/** One SEND without its last message. */
class Call {
  sent = false;
  ended = false;
  parts = [];
  partBytes = 0;
  heads = [];
  #wake = () => {};

  constructor(header, ttlMs) {
    this.header = header;
    this.expiresAt = performance.now() + ttlMs;
    this.result = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.result.catch(() => {}); // a stream looks at it later, or never
  }

  /** Resolves when something came. */
  news() {
    return new Promise((resolve) => (this.#wake = resolve));
  }

  wake() {
    this.#wake();
  }
}

export class Client {
  #link;
  #calls = new Map();
  #pings = [];
  #number = 0;
  #ttlMs;

  constructor(address = "tcp://127.0.0.1:5570", { ttlMs = 30_000 } = {}) {
    this.#ttlMs = ttlMs;
    this.#link = new Link(address, {
      onMessage: (message) => this.#onMessage(message),
      // Answers that came before the end are read first.
      onDisconnect: () => setTimeout(() => this.#onLost(), 50),
    });
  }

  /** Send a message; resolves to `{ body, backend, head, heads, elapsedMs, message }`, rejects with RouterError. */
  send(capability, body, { signal, ...keys } = {}) {
    return this.#begin(capability, body, keys, signal).result;
  }

  /** Send a message to `heads` backends at once; resolves to an array of what became of each, RouterErrors among them. */
  sendAll(capability, body, { signal, ...keys } = {}) {
    return this.#begin(capability, body, { ...keys, reply: "all" }, signal).result;
  }

  /** Send a message without waiting for an answer; resolves to the daemon's name for it, once it is queued there. */
  post(capability, body, keys = {}) {
    return this.#begin(capability, body, { ...keys, reply: "none" }).result;
  }

  /** Yield the pieces of a streamed answer, each an array of frames, and return the reply. To leave early cancels. */
  async *stream(capability, body, { signal, ...keys } = {}) {
    const call = this.#begin(capability, body, keys, signal);
    try {
      while (true) {
        while (call.parts.length > 0) {
          const part = call.parts.shift();
          call.partBytes -= size(part);
          yield part;
        }
        if (call.ended) return await call.result;
        await call.news();
      }
    } finally {
      if (!call.ended) this.#cancel(call);
    }
  }

  /** Tell how good the answer to a SEND was, from 0 to 1; its id must have been given to `send`. */
  feedback(id, score) {
    this.#link.send(pack("FEEDBACK", { id, score }));
  }

  /** Resolves to what the daemon says about itself. */
  ping(timeoutMs = 5_000) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pings = this.#pings.filter((other) => other !== answered);
        reject(lost("no answer to PING"));
      }, timeoutMs);
      const answered = (pong) => {
        clearTimeout(timer);
        resolve(pong);
      };
      this.#link.send(() => {
        this.#pings.push(answered);
        return pack("PING", {});
      });
    });
  }

  /** End every open call, and the connection. */
  close() {
    for (const call of this.#calls.values()) this.#end(call, lost("the client was closed"));
    this.#link.close();
  }

  #begin(capability, body, keys, signal) {
    const header = { id: ++this.#number, ttl_ms: this.#ttlMs, ...keys, capability };
    if (this.#calls.has(header.id)) throw new RouterError("duplicate_id", `${header.id} is open`);
    const call = new Call(header, header.ttl_ms);
    const parts = frames(body);
    this.#calls.set(header.id, call);
    call.timer = setTimeout(() => this.#end(call, lost("no answer")), header.ttl_ms + GRACE_MS);
    call.abort = () => this.#cancel(call);
    call.signal = signal;
    signal?.addEventListener("abort", call.abort);
    if (signal?.aborted) call.abort();
    this.#link.send(() => {
      const left = Math.ceil(call.expiresAt - performance.now());
      if (call.ended || left <= 0) return null;
      call.sent = true;
      return pack("SEND", { ...header, ttl_ms: Math.min(left, header.ttl_ms) }, parts);
    });
    return call;
  }

  /** Ask for the end of a call, which comes as ERROR `cancelled`, or as an answer that was on its way already. */
  #cancel(call) {
    if (call.ended) return;
    if (call.sent) this.#link.send(pack("CANCEL", { id: call.header.id }));
    else this.#end(call, new RouterError("cancelled", "before it was sent"));
  }

  #end(call, outcome) {
    if (call.ended) return;
    call.ended = true;
    clearTimeout(call.timer);
    call.signal?.removeEventListener("abort", call.abort);
    this.#calls.delete(call.header.id);
    if (outcome instanceof RouterError) call.reject(outcome);
    else call.resolve(outcome);
    call.wake();
  }

  #onMessage({ verb, header, body }) {
    if (verb === "PONG") {
      this.#pings.shift()?.(header);
      return;
    }
    const call = this.#calls.get(header.id);
    if (call === undefined) return;
    if (verb === "PART") this.#onPart(call, body);
    else if (verb === "REPLY") this.#onAnswer(call, header, reply(header, body));
    else if (verb === "ERROR") this.#onAnswer(call, header, RouterError.of(header));
    else if (verb === "ACCEPT" && header.last) this.#end(call, header.message);
  }

  #onPart(call, body) {
    call.parts.push(body);
    call.partBytes += size(body);
    if (call.partBytes > STREAM_BYTES) {
      this.#cancel(call);
      this.#end(call, new RouterError("overloaded", "the stream is read too slowly"));
    }
    call.wake();
  }

  #onAnswer(call, header, answer) {
    const ofOneHead = answer instanceof RouterError ? "head" in header : true;
    if (call.header.reply === "all" && ofOneHead) {
      call.heads.push(answer);
      if (header.last) this.#end(call, call.heads);
    } else if (header.last) this.#end(call, answer);
  }

  /** The connection is gone, and with it the answers to what was sent over it. */
  #onLost() {
    this.#pings = []; // their own clocks end them
    for (const call of this.#calls.values()) if (call.sent) this.#end(call, lost("the connection is gone"));
  }
}

function reply({ backend, head, heads, elapsed_ms: elapsedMs, message }, body) {
  return { body, backend, head, heads, elapsedMs, message };
}

function lost(detail) {
  return new RouterError("connection_lost", detail, { retry: true });
}

function size(parts) {
  return parts.reduce((sum, part) => sum + part.length, 64);
}
