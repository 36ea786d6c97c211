// A client to start with: sends one message, and writes the answer piece by piece as it comes.
//
//     node ask.js CAPABILITY [TEXT] [ADDRESS]

import { Client, RouterError } from "./client.js";

const [capability = "upper", text = "hello", address] = process.argv.slice(2);

const client = new Client(address, { ttlMs: 10_000 });
const pieces = client.stream(capability, text);
try {
  let piece;
  while (!(piece = await pieces.next()).done) console.log(Buffer.concat(piece.value).toString());
  const reply = piece.value;
  if (reply.body.length > 0) console.log(Buffer.concat(reply.body).toString());
  console.error(`from ${reply.backend} in ${reply.elapsedMs.toFixed(1)} ms`);
} catch (error) {
  if (!(error instanceof RouterError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
} finally {
  client.close();
}
