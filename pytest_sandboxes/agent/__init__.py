"""The program that runs inside a sandbox: standard library only, one thread, one poll loop.

Its modules import each other and nothing else of this project; `pytest_sandboxes.payload` ships them whole over the
sandbox's own byte stream, so nothing has to be installed or mounted there. They stay importable by CPython 3.8,
because images bring their own interpreter.
"""
