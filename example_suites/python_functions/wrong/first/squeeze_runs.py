# Mistake: replaces three at a time, so that a run of seven becomes five.
import re


def squeeze_runs(text):
    return re.sub(r"(.)\1\1", r"\1\1", text, flags=re.DOTALL)
