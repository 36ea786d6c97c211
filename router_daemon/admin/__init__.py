"""HTTP for people and monitoring: what is, and why."""
