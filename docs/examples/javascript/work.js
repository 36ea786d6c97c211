// A backend to start with: `upper` answers in capitals, `count` streams numbers.
//
//     node work.js NAME [ADDRESS]

import { setTimeout as sleep } from "node:timers/promises";
import { Backend, Reject } from "./backend.js";

const [name = "javascript", address] = process.argv.slice(2);

const backend = new Backend(
  name,
  {
    upper: ({ body }) => body.map((frame) => frame.toString().toUpperCase()),
    async *count({ body, signal }) {
      const end = Number(body[0]?.toString());
      if (!(end >= 0)) throw new Reject("count takes a number");
      for (let number = 1; number <= end; number++) {
        await sleep(20, undefined, { signal });
        yield String(number);
      }
    },
  },
  { address, slots: 4 },
);

process.once("SIGTERM", () => backend.stop());
process.once("SIGINT", () => backend.stop());
await backend.run();
