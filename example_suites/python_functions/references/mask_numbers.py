import re


def mask_numbers(text: str) -> str:
    return re.sub(r"[0-9]{5,}", lambda run: "*" * (len(run[0]) - 4) + run[0][-4:], text)
