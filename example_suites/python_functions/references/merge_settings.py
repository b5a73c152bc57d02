def merge_settings(base: dict, changes: dict) -> dict:
    result = dict(base)
    for key, change in changes.items():
        if change is None:
            result.pop(key, None)
        elif isinstance(change, dict):
            old = result.get(key)
            result[key] = merge_settings(old if isinstance(old, dict) else {}, change)
        else:
            result[key] = change
    return result
