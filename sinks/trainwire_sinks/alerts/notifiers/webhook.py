"""Messages to an HTTP server."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Final

from trainwire_protocol.journal.files import run_in_background
from trainwire_sinks.alerts.notifiers.base import Notifier, with_environment
from trainwire_sinks.alerts.settings import SettingError
from trainwire_sinks.runtime.delivery_queue import Message, RefusedError

REFUSALS: Final = frozenset({400, 410, 413, 415, 422})
"""Answers that say that this message will never be taken."""


@dataclass(kw_only=True)
class Webhook(Notifier):
    """Posts the alert as JSON to a URL: a map as it stands in `alerts.jsonl`.

    The header `Idempotency-Key` tells it from every other. An answer of 2xx takes it; 400, 410, 413, 415 and 422 refuse
    it for good; anything else, a redirection too, is tried again. The environment's proxies are used.
    """

    kind = "webhook"

    url: str
    headers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._url = with_environment("url", self.url)
        if not _is_address(self._url):
            raise SettingError(("url",), "url is no address that begins with http:// or https://, without spaces")
        if "@" in urllib.parse.urlsplit(self._url).netloc:
            raise SettingError(("url",), "url holds a user: give headers = ['Authorization: Basic ${TOKEN}'] instead")
        self._headers = dict(_header(with_environment("headers", header)) for header in self.headers)

    async def send(self, key: str, alert: Message) -> None:
        """Post it, on a thread that keeps nobody from ending."""
        await run_in_background(self._post, key, json.dumps(alert, allow_nan=False).encode())

    def _post(self, key: str, body: bytes) -> None:
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": urllib.parse.quote(key),
            "User-Agent": "trainwire",
            **self._headers,
        }
        request = urllib.request.Request(self._url, body, headers, method="POST")
        try:
            with urllib.request.build_opener(_NoRedirection).open(request, timeout=self.timeout):
                return
        except urllib.error.HTTPError as error:
            error.close()
            kind = RefusedError if error.code in REFUSALS else OSError
            raise kind(f"the answer was {error.code} {error.reason}") from None
        except HTTPException as error:
            raise OSError(f"the answer was no HTTP: {error!r:.200}") from None


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET without its body."""

    def redirect_request(self, *_: object) -> None:
        return None


def _is_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and re.fullmatch(r"[!-~]+", url) is not None


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if (
        not colon
        or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name)
        or not (value.isascii() and value.isprintable())
    ):
        raise SettingError(("headers",), "a header is a string such as 'Authorization: Bearer ${TOKEN}'")
    return name, value.strip()
