"""What happens in a run, as one stream of events, and the sinks that consume it."""
