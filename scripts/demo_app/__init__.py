"""The demo: real metrics, real backend processes, one router daemon between them (`./scripts/demo --help`)."""
