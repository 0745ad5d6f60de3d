"""Alerts: rules that look at a run, and notifiers that tell what they find. `docs/alerts.md` is the reference."""
