# Mistake: a dict that is new is taken as it is, with the None values in it.
def merge_settings(base, changes):
    result = dict(base)
    for key, change in changes.items():
        if change is None:
            result.pop(key, None)
        elif isinstance(change, dict) and isinstance(result.get(key), dict):
            result[key] = merge_settings(result[key], change)
        else:
            result[key] = change
    return result
