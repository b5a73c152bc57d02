"""Modal's control plane and command router, as far as its client needs them, with sandboxes on this machine."""
