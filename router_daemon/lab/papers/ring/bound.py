"""How fast any policy could be on the ring at a given alignment: a bound, not a policy.

With latency_mi and cos_mi of message m at node i, whoever reaches mean alignment A has, for every price p >= 0,

    mean latency >= mean over m of min_i (latency_mi - p cos_mi) + p A        (weak duality)

since each message costs at least its own minimum. The bound is the greatest over p. It knows true latencies; it holds
where nodes have no queues and none fails.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

import numpy as np

from router_daemon.lab.papers.ring import world
from router_daemon.lab.papers.ring.runs import Job, chords, entries

PRICES: Final = tuple(0.25 * k for k in range(1, 61))
"""Milliseconds for a whole cosine; 15 is beyond what the table's trade-off asks."""


def least_latency_ms(job: Job, alignment: float) -> float:
    """Return the mean latency (ms) that no choice of nodes for the job's messages can be below at that alignment."""
    nodes = world.draw_nodes(job.seed)
    keys = np.array([world.unit(node.key) for node in nodes])
    queries = world.draw_queries(job.seed, job.reading.topics, job.reading.noise)
    cosines = np.array([world.unit(query) for query in islice(queries, job.messages)]) @ keys.T
    hops = np.array(world.ring_hops(world.NODES, chords(job)))
    here = list(islice(entries(job), job.messages))
    latency_ms = np.array([node.base_ms for node in nodes]) + world.LINK_MS * hops[here]
    return max(float((latency_ms - price * cosines).min(axis=1).mean()) + price * alignment for price in PRICES)
