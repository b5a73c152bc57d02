"""The pool: all sandboxes of a run, leased, grown, shrunk and replaced."""
