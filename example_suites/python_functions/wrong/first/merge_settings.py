# Mistake: replaces inner dicts instead of changing them.
def merge_settings(base, changes):
    merged = base | changes
    return {key: value for key, value in merged.items() if value is not None or key not in changes}
