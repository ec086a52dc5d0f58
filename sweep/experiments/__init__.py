"""Experiments: pipelines with a name, a journal and children."""
