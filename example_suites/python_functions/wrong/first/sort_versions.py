# Mistake: compares suffixes as text, so that rc10 comes before rc2.
def sort_versions(versions):
    def key(version):
        numbers, _, suffix = version.partition("-")
        parts = [int(part) for part in numbers.split(".")]
        parts += [0] * (8 - len(parts))
        return parts, suffix or "~"

    return sorted(versions, key=key)
