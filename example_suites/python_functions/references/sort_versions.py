import re


def sort_versions(versions: list[str]) -> list[str]:
    def key(version: str) -> tuple:
        numbers, _, suffix = version.partition("-")
        parts = [int(part) for part in numbers.split(".")]
        while parts and parts[-1] == 0:
            parts.pop()
        if not suffix:
            return parts, 1
        letters, number = re.fullmatch(r"([a-z]+)(\d+)", suffix).groups()
        return parts, 0, letters, int(number)

    return sorted(versions, key=key)
