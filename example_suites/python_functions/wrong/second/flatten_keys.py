# Mistake: empty dicts and lists disappear.
def flatten_keys(tree):
    leaves = {}

    def visit(path, value):
        if isinstance(value, dict):
            for key, child in value.items():
                visit([*path, key], child)
        elif isinstance(value, list):
            for place, child in enumerate(value):
                visit([*path, str(place)], child)
        else:
            leaves[".".join(path)] = value

    visit([], tree)
    return leaves
