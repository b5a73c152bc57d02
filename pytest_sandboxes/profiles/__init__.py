"""Profiles: named recipes of sandboxes, where each of their values comes from, and which are in use."""
