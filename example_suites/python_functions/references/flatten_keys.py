def flatten_keys(tree: dict) -> dict:
    leaves = {}

    def visit(path: tuple[str, ...], value: object) -> None:
        if isinstance(value, dict) and value:
            children = value.items()
        elif isinstance(value, list) and value:
            children = enumerate(value)
        else:
            leaves[".".join(path)] = value
            return
        for key, child in children:
            visit((*path, str(key)), child)

    for key, child in tree.items():
        visit((key,), child)
    return leaves
