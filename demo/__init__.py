"""A private Glance 33.0.0 on loopback with the guard in its pipeline, and the story `make demo` plays on it."""
