from urllib.parse import unquote_plus


def parse_query(query: str) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for piece in query.removeprefix("?").split("&"):
        if piece:
            name, _, value = piece.partition("=")
            values.setdefault(unquote_plus(name), []).append(unquote_plus(value))
    return values
