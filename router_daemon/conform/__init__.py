"""Does a peer keep to docs/protocol.md? The other side of it, played against a client or a backend. PURE.

A script says something, waits for what must follow, and gives a verdict on a check; each check stands on a sentence of
docs/protocol.md. Messages and time come in, actions go out; the sockets are in `cli/playing.py`.
"""
