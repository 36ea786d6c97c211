"""The ring of daemons: how they find each other's backends, and send each other messages. Pure."""
