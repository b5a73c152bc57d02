import re

DURATION = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")


def parse_duration(text: str) -> int | None:
    match = DURATION.fullmatch(text)
    if not text or not match:
        return None
    return sum(
        int(count or 0) * unit for count, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True)
    )
