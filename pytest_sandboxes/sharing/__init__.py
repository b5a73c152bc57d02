"""One pool for all workers of pytest-xdist: it lives in the controller, and each worker reaches it over a channel.

A worker's leases live exactly as long as its connection. `messages` says what travels, `link` and `shared_pool` are the
worker's end, `desk`, `relay` and `office` the controller's, and `hooks` is where pytest-xdist meets both.
"""
