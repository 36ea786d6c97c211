// What can happen, as a person should see it: a mark, a word, and how much it matters.

const KINDS = {
  daemon_started: ["▲", "started", "plain"],
  reload_ok: ["↻", "reload", "plain"],
  reload_failed: ["↻", "reload refused", "bad"],
  rollout_stage: ["◆", "rollout stage", "good"],
  rollout_stopped: ["■", "rollout stopped", "bad"],
  rollout_rolled_back: ["■", "rolled back", "bad"],
  rollout_done: ["◆", "rollout done", "good"],
  route_retire: ["◇", "to be retired", "plain"],
  route_fault: ["!", "policy at fault", "warn"],
  route_breaker_opened: ["!", "breaker open", "bad"],
  route_breaker_closed: ["○", "breaker closed", "good"],
  override_set: ["→", "override", "warn"],
  override_ended: ["←", "override ended", "plain"],
  backend_joined: ["+", "joined", "good"],
  backend_left: ["−", "left", "plain"],
  backend_lost: ["×", "lost", "bad"],
  backend_ejected: ["⊘", "ejected", "warn"],
  backend_let_in: ["○", "let in again", "good"],
  backend_version: ["v", "new version", "plain"],
  backend_drained: ["⏸", "drained", "warn"],
  backend_undrained: ["▶", "undrained", "good"],
  link_up: ["+", "link up", "good"],
  link_down: ["×", "link down", "bad"],
};

export function kindOf(happening) {
  const [mark, word, level] = KINDS[happening.kind] ?? ["•", "event", "plain"];
  return { mark, word, level };
}

// What has happened, as a line; `text` begins with what the log says, or has the details alone.
export function sentence(happening) {
  const { word } = kindOf(happening);
  const { kind, name, text } = happening;
  if (kind.startsWith("backend_") || kind.startsWith("link_")) return `${name}: ${text.replace(/^backend /, "")}`;
  if (kind === "other") return name ? `${name}: ${text}` : text;
  return `${word}${name ? `, ${name}` : ""}: ${text}`;
}

export const LEVELS = { plain: "--muted", good: "--good", warn: "--warn", bad: "--bad" };
