# Mistake: keeps the last four digits of the whole text only.
import re


def mask_numbers(text):
    digits = len(re.findall("[0-9]", text))
    if digits < 5:
        return text
    return re.sub("[0-9]", "*", text, count=digits - 4)
