// A client for `router-daemon conform`: it asks for tasks, does them, and says what came of each (docs/conform.md).
//
//     router-daemon conform --client tcp://127.0.0.1:0 --run "node conform-client.js {address}"

import { setTimeout as sleep } from "node:timers/promises";
import { decode } from "@msgpack/msgpack";
import { Client, RouterError } from "./client.js";

const client = new Client(process.argv[2]);

const tasks = {
  async send({ capability, ...keys }, body) {
    return ["reply", ...(await client.send(capability, body, keys)).body];
  },
  async stream({ capability, ...keys }, body) {
    const pieces = client.stream(capability, body, keys);
    const found = [];
    let piece;
    while (!(piece = await pieces.next()).done) found.push(...piece.value);
    return ["reply", ...found, ...piece.value.body];
  },
  async pair({ capability, ...keys }) {
    const replies = await Promise.all(["1", "2"].map((body) => client.send(capability, body, keys)));
    return ["pair", ...replies.map(({ body }) => body[0])];
  },
  async post({ capability, ...keys }, body) {
    await client.post(capability, body, keys);
    return ["accept"];
  },
  async all({ capability, ...keys }, body) {
    const answers = await client.sendAll(capability, body, keys);
    return ["all", ...answers.map((answer) => (answer instanceof RouterError ? answer.code : "reply"))];
  },
  async retry(keys, body) {
    while (true) {
      try {
        return await tasks.send(keys, body);
      } catch (error) {
        if (!error.retry) throw error;
        await sleep(error.retryAfterMs ?? 100);
      }
    }
  },
  cancel(keys, body) {
    return tasks.send({ ...keys, signal: AbortSignal.timeout(100) }, body);
  },
  async feedback(keys, body) {
    const outcome = await tasks.send({ id: "judged", ...keys }, body);
    client.feedback("judged", 0.5);
    return outcome;
  },
  async ping() {
    await client.ping();
    return ["pong"];
  },
};

async function perform(verb, keys, body) {
  if (!Object.hasOwn(tasks, verb)) return ["unsupported"];
  try {
    return await tasks[verb](keys, body);
  } catch (error) {
    if (!(error instanceof RouterError)) throw error;
    return error.code === "connection_lost" ? ["lost"] : ["error", error.code];
  }
}

let outcome = [];
while (true) {
  const [verb, keys, ...body] = (await client.send("conform.task", outcome)).body;
  if (verb.toString() === "end") break;
  outcome = await perform(verb.toString(), decode(keys), body);
}
client.close();
