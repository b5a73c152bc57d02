# Mistake: `\d` matches the digits of all scripts.
import re


def mask_numbers(text):
    return re.sub(r"\d(?=\d{4})", "*", text)
