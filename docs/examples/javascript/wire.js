// The frames of CAR/1 (docs/protocol.md), and one DEALER socket that sends and receives them.

import { decode, encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";

const COMMAND = /^CAR1\.([A-Z_]+)$/;

/** The frames of a message; keys that are undefined are left out. */
export function pack(verb, header, body = []) {
  return [Buffer.from(`CAR1.${verb}`), encode(header, { ignoreUndefined: true }), ...body];
}

/** The message in these frames, or null: what is no command of CAR/1 a peer passes over. */
export function unpack([command, header, ...body]) {
  const verb = COMMAND.exec(command?.toString("latin1"))?.[1];
  if (verb === undefined || header === undefined) return null;
  try {
    return { verb, header: decode(header), body };
  } catch {
    return null;
  }
}

/** A body as frames: nothing is none at all, bytes or a text are one, an array is one for each item. */
export function frames(body) {
  if (body === undefined || body === null) return [];
  const items = Array.isArray(body) ? body : [body];
  return items.map((item) => (typeof item === "string" ? Buffer.from(item) : item));
}

/**
 * One DEALER socket. It connects in the background, and again whenever the connection is lost.
 *
 * `immediate` keeps messages here until there is a connection, so that what has waited for too long can still be taken
 * back. The routing id stays unset. libzmq answers the daemon's ZMTP heartbeats by itself.
 */
export class Link {
  #socket = new Dealer({
    immediate: true,
    linger: 1_000,
    sendTimeout: 250,
    connectTimeout: 3_000,
    reconnectInterval: 100,
    reconnectMaxInterval: 2_000,
  });
  #outbox = [];
  #sending = false;
  #closed = false;

  constructor(address, { onMessage, onConnect = () => {}, onDisconnect = () => {} }) {
    this.#socket.events.on("handshake", () => this.#closed || onConnect());
    this.#socket.events.on("disconnect", () => this.#closed || onDisconnect());
    this.#socket.connect(address);
    this.#receive(onMessage);
  }

  /**
   * Send frames; or what a function returns when their turn has come, if it still returns any. Resolves once they were
   * handed to libzmq, or never will be: whoever sends much waits for that, so that little waits here.
   */
  send(message) {
    return new Promise((left) => {
      this.#outbox.push({ message, left });
      if (!this.#sending) this.#flush();
    });
  }

  /** Close the socket; what it has been given still leaves, for a second. What waits here for its turn does not. */
  close() {
    this.#closed = true;
    for (const { left } of this.#outbox.splice(0)) left();
    this.#socket.close();
  }

  async #flush() {
    this.#sending = true; // a zeromq socket sends one message at a time
    while (this.#outbox.length > 0) {
      const { message, left } = this.#outbox[0];
      const parts = typeof message === "function" ? message() : message;
      try {
        if (parts) await this.#socket.send(parts);
        this.#outbox.shift();
        left();
      } catch (error) {
        if (this.#closed) break;
        if (error.code !== "EAGAIN") throw error; // EAGAIN: no connection, or the daemon takes no more; ask again
      }
    }
    this.#sending = false;
  }

  async #receive(onMessage) {
    try {
      for await (const parts of this.#socket) {
        const message = unpack(parts);
        if (message && !this.#closed) onMessage(message);
      }
    } catch (error) {
      if (!this.#closed) throw error;
    }
  }
}
