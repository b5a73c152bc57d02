"""Batch, Cloud Storage and the metadata server, as far as their clients need them, with VMs on this machine."""
