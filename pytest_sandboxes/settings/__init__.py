"""Settings of a run, each with its source."""
