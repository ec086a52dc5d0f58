"""Contract suites for plug-ins, and virtual time."""
