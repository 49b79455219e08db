"""Events: what rows may satisfy, written as in `DataFrame.query`, parsed and never run."""

from probgen.events.event import Event, both

__all__ = ["Event", "both"]
