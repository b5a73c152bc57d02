# Mistake: 1 is older than 1.0.
import re


def sort_versions(versions):
    def key(version):
        numbers, _, suffix = version.partition("-")
        letters, number = re.fullmatch(r"([a-z]*)(\d*)", suffix).groups()
        return [int(part) for part in numbers.split(".")], not suffix, letters, int(number or 0)

    return sorted(versions, key=key)
