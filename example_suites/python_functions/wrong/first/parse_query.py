# Mistake: decodes first, so that an encoded `&` or `=` separates.
from urllib.parse import unquote_plus


def parse_query(query):
    values = {}
    for piece in unquote_plus(query).removeprefix("?").split("&"):
        if piece:
            name, _, value = piece.partition("=")
            values.setdefault(name, []).append(value)
    return values
