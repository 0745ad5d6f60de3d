"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings
from support.patient import close_patiently

close_patiently()
# No deadline: how long an example takes says more about a shared machine than about the code.
settings.register_profile("default", deadline=None)
settings.register_profile("few", deadline=None, max_examples=4)
settings.register_profile("fuzz", deadline=None, max_examples=5000)
settings.load_profile("default")
