"""What an integration requires: its framework, in a version that it works with, and a bus."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from trainwire.bus.bus import EventBus
from trainwire_protocol.errors import MissingExtraError, OptionError


def require(package: str, minimum: str, extra: str, integration: str = "") -> None:
    """Check that a framework is installed, before an integration imports it.

    Args:
        package: its name in the package index.
        minimum: the oldest version that the integration works with, such as "0.15".
        extra: the extra of `trainwire` that installs it.
        integration: the integration's module, if it is not named after the extra.

    Raises:
        MissingExtraError: it is not installed, or it is older than `minimum`.
    """
    feature = f"trainwire.integrations.{integration or extra}"
    try:
        installed = version(package)
    except PackageNotFoundError:
        raise MissingExtraError(feature, extra, f"{package} {minimum} or later") from None
    if _release(installed) < _release(minimum):
        raise MissingExtraError(feature, extra, f"{package} {minimum} or later, and {installed} is installed")


def checked_bus(bus: object, owner: str) -> EventBus:
    """Return the bus that was passed to `owner`, the name of a class.

    Raises:
        OptionError: it is not a bus.
    """
    if not isinstance(bus, EventBus):
        raise OptionError(f"{owner}: {bus!r:.60} is not a bus; pass what trainwire.open_bus returned")
    return bus


def _release(number: str) -> tuple[int, ...]:
    """Return the numbers before the first part that is not a number: (2, 6) for "2.6.0rc1" as for "2.6"."""
    numbers = re.match(r"\d+(\.\d+)*", number)
    parts = [int(part) for part in numbers.group().split(".")] if numbers else []
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)
