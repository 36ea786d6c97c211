"""What the queries of the dashboard are put together from: labels that follow its variables, rates, percentiles."""

from __future__ import annotations

from typing import Final

JOB: Final = 'job=~"$job"'
AT: Final = f'{JOB},instance=~"$instance"'
OF: Final = f'{AT},capability=~"$capability"'
BY: Final = f'{AT},backend=~"$backend"'
VIA: Final = f'{AT},route=~"$route"'
W: Final = "[$__rate_interval]"
ERRORS: Final = 'outcome=~"failed|expired|overloaded|internal|no_backend|no_capability|unknown_backend|draining"'
OWN: Final = 'outcome!~"client_gone|cancelled|rejected|forbidden|bad_.*|unknown_policy"'


def rate(metric: str, labels: str, by: str = "") -> str:
    """Return events per second, summed but for the labels in `by`."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{labels}}}{W}))"


def quantile(share: float, metric: str, labels: str, by: str = "") -> str:
    """Return the value below which a share of a histogram's values lies."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels, f'le, {by}' if by else 'le')})"


def mean(metric: str, labels: str) -> str:
    """Return the mean of a histogram's values."""
    return f"{rate(f'{metric}_sum', labels)} / {rate(f'{metric}_count', labels)}"


def ratio(part: tuple[str, str], whole: tuple[str, str], by: str = "") -> str:
    """Return the rate of one counter over that of another; each with its labels."""
    return f"{rate(*part, by)} / {rate(*whole, by)}"
