# Mistake: does not go into lists.
def flatten_keys(tree):
    leaves = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            for path, leaf in flatten_keys(value).items():
                leaves[f"{key}.{path}"] = leaf
        else:
            leaves[key] = value
    return leaves
