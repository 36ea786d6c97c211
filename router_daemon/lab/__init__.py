"""The simulator: the daemon's own broker and policies in virtual time, with everything around them simulated.

`world` says how to run one. Nothing in here reads a clock, opens a socket or draws randomness that does not come from
the seed of its world.
"""
