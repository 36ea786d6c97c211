"""The pure core: events in, actions out. No I/O, no clock, no global randomness, no logging."""
