// What has been told so far: the points of the last ten minutes, what has happened, and the last snapshot.
// Everything is bounded; who connects again fills the gap from what the daemon has kept.

export const KEEP_S = 600;
const MOST_HAPPENINGS = 300;
const MOST_BUCKETS = 90;
const APART_S = 2.5;

export class Memory {
  constructor() {
    this.points = [];
    this.happenings = [];
    this.snapshot = null;
    this.decided = []; // [at, bounds' counts of hit, of miss], to show the last minute
    this.boot = null;
    this.lastId = 0;
  }

  // Take in what who comes is told at first.
  begin(told) {
    if (this.boot !== told.boot) this.decided = []; // counts begin anew
    this.boot = told.boot;
    const known = this.points.map((point) => point.at);
    const missing = told.points.filter((point) => !known.some((at) => Math.abs(at - point.at) < APART_S));
    this.points = [...this.points, ...missing].sort((a, b) => a.at - b.at);
    this.#note(told.events);
    this.#trim();
  }

  // Take in a snapshot.
  take(snapshot) {
    this.snapshot = snapshot;
    const last = this.points.at(-1);
    if (!last || snapshot.point.at > last.at) this.points.push(snapshot.point);
    this.#note(snapshot.events);
    const { hit, miss } = snapshot.decision_seconds;
    this.decided.push([snapshot.point.at, hit, miss]);
    if (this.decided.length > MOST_BUCKETS) this.decided.shift();
    this.#trim();
  }

  // Return how many decisions fell into each bucket in the last minute (or ever): [hits, misses].
  decisions(ever) {
    const last = this.decided.at(-1);
    if (!last) return null;
    const first = ever ? null : this.decided.find(([at]) => at >= last[0] - 60);
    const minus = (now, before) => now.map((count, n) => Math.max(0, count - (before ? before[n] : 0)));
    return [minus(last[1], first?.[1]), minus(last[2], first?.[2])];
  }

  // Ids of events rise also over a restart of the daemon.
  #note(happenings) {
    const fresh = happenings.filter((each) => each.id > this.lastId);
    if (!fresh.length) return;
    this.lastId = fresh.at(-1).id;
    this.happenings = [...this.happenings, ...fresh].sort((a, b) => a.at - b.at).slice(-MOST_HAPPENINGS);
  }

  #trim() {
    const from = (this.points.at(-1)?.at ?? 0) - KEEP_S;
    while (this.points.length && this.points[0].at < from) this.points.shift();
  }
}
