# Mistake: goes deep first, so that a name comes too early or too late in the alphabet.
def build_order(needs):
    order, path = [], []

    def visit(name):
        if name in path:
            raise ValueError(name)
        if name not in order:
            path.append(name)
            for need in sorted(needs.get(name, [])):
                visit(need)
            path.pop()
            order.append(name)

    try:
        for name in sorted(needs):
            visit(name)
    except ValueError:
        return None
    return order
