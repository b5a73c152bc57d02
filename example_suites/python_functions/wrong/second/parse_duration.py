# Mistake: takes zero seconds for no duration.
import re


def parse_duration(text):
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(count or 0) for count in match.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds or None
