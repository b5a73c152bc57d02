"""Runs against services that cost money, with the user's own account, for whoever asks for them."""
