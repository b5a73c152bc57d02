"""Faults at random instants, counted from outside. Each module is a script, and small counts of it are tests."""
