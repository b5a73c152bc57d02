"""Where sandboxes run: one module per backend, none imported before it is asked for."""
