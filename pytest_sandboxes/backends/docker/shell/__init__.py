"""Containers in which no agent can run: each command and file is an exec of the Engine's, through the image's `sh`."""
