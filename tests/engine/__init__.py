"""A Docker Engine for the tests, and the images that they run: `python -m tests.engine` sees to both."""
