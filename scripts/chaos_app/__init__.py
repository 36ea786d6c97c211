"""A daemon, backends and clients as real processes, faults between them, and a ledger of every message."""
