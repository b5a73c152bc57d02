"""Runs in the sandbox: `driver.py FUNCTION` calls a function of `solution.py` for each line of its input.

A line is a JSON list of arguments; its answer is a line too, the returned value as JSON. The solution shares
this process and can do what it likes with it. That is why nothing here knows a right answer. Started by
`python3 -I`, which takes no modules from the environment, the user's directory or the current one.
"""

import json
import os
import sys

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what a solution prints is no answer
calls = [json.loads(line) for line in sys.stdin]

sys.path.append(os.getcwd())  # last, so that a file of the solution cannot stand in for a standard module
function = getattr(__import__("solution"), sys.argv[1])
for arguments in calls:
    print(json.dumps(function(*arguments), sort_keys=True), file=answers, flush=True)
