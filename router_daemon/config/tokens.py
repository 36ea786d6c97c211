"""The token of the admin room, from the configuration or from its file; what is wrong with it is said without it."""

from __future__ import annotations

from pathlib import Path

from router_daemon.config.sections import TOKEN_RULE, AdminSection
from router_daemon.errors import ConfigError


def admin_token(section: AdminSection) -> str:
    """Return the token, "" for none.

    Raises:
        ConfigError: its file cannot be read, or has none.
    """
    path = section.token_file
    if not path:
        return section.token
    try:
        token = AdminSection(token=Path(path).read_text("ascii").strip()).token
    except OSError as error:
        raise ConfigError(f"admin.token_file {path} cannot be read: {error.strerror}") from None
    except ValueError:  # no ASCII, or against the rule; neither text may be shown
        token = ""
    if not token:
        raise ConfigError(f"admin.token_file {path} has no token: {TOKEN_RULE}")
    return token
