"""Directed acyclic graphs over the nodes of a table: what they say, and how they are learned."""
