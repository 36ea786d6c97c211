"""Ways of scoring backends, one per file, chosen by name (`base.make_policy`). Pure, like the core."""
