"""The store: schema, journal and file format of everything that sweep remembers."""
