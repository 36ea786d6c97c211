// A backend for `router-daemon conform`: everything that it asks a backend for (docs/conform.md).
//
//     router-daemon conform --backend tcp://127.0.0.1:0 --run "node conform-backend.js {address}"

import { setTimeout as sleep } from "node:timers/promises";
import { Backend, Reject } from "./backend.js";

const backend = new Backend(
  "conform-javascript",
  {
    "conform.echo": ({ body }) => body,
    async *"conform.stream"({ body }) {
      yield* body;
    },
    async "conform.slow"({ body, signal }) {
      await sleep(Number(body[0].toString()), undefined, { signal });
      return body;
    },
    "conform.fail"() {
      throw new Error("as asked");
    },
    "conform.reject"() {
      throw new Reject("as asked");
    },
  },
  { address: process.argv[2], slots: 3 },
);

process.once("SIGTERM", () => backend.stop());
await backend.run();
