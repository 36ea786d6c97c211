"""What one client may have open, so that a flood from one does not take the room of all others.

Rules:
- A message is charged to its client exactly while it is open: `dispatch` does it, where every message is opened and
  where every one ends.
- A quota is compared with what is open already, never with what is asked for: a client with nothing open gets its
  message in whatever the size, and the excess over `client_bytes` is one message at most.
- What is refused here costs less than what is taken: no message is made, nobody is looked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from router_daemon.core.messages import Client, Message
from router_daemon.core.settings import Settings

LEAST_WAIT_MS: Final = 10
MOST_WAIT_MS: Final = 1000
UNKNOWN_WAIT_MS: Final = 100


def excess(client: Client, settings: Settings) -> tuple[str, str]:
    """Return which quota is used up, and that for a person."""
    if client.messages >= settings.client_messages:
        return "client_messages", f"{settings.client_messages} messages of this client are open"
    return "client_bytes", f"messages of this client with {settings.client_bytes} bytes and more are open"


def retry_after_ms(client: Client, now: float) -> int:
    """Return when about a quarter of what the client has open will have ended.

    Little's law: the oldest has been open for about as long as it takes all of them to end. Bounded, as the oldest may
    hang; where none is answered (`reply: none`) the age of the oldest is not at hand.
    """
    for oldest in client.open.values():
        return min(max(LEAST_WAIT_MS, int((now - oldest.accepted_at) * 250.0)), MOST_WAIT_MS)
    return UNKNOWN_WAIT_MS


def check_accounts(clients: Iterable[Client], messages: Iterable[Message]) -> None:
    """Assert that every account comes to what its client has open, that of a client that is gone, too."""
    held: dict[int, tuple[Client, list[Message]]] = {id(account): (account, []) for account in clients}
    for message in messages:
        held.setdefault(id(message.client), (message.client, []))[1].append(message)
    for account, those in held.values():
        assert account.messages == len(those), f"{account!r} is charged {account.messages} messages"
        assert account.body_bytes == sum(m.size for m in those), f"{account!r} is charged {account.body_bytes} bytes"
