import re


def squeeze_runs(text: str) -> str:
    return re.sub(r"(.)\1{2,}", r"\1\1", text, flags=re.DOTALL)
