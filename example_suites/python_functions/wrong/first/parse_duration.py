# Mistake: adds up whatever looks like a part, in any order and with anything in between.
import re

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_duration(text):
    parts = re.findall(r"(\d+)([dhms])", text)
    return sum(int(count) * UNITS[unit] for count, unit in parts) if parts else None
