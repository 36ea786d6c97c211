"""A ring of real daemons under load, with its busiest one killed: what `scripts/ring` runs."""
