"""A backend, hands and time that are simulated, and drive the real pool."""
