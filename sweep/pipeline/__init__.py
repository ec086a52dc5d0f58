"""Typed, durable pipelines: contracts, hooks, builder and runner."""
