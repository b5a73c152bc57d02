"""Batch mode: whole tests travel to shards, run there with an ordinary backend, and are reported here."""
