# Mistake: `parse_qs` drops names without a value.
from urllib.parse import parse_qs


def parse_query(query):
    return parse_qs(query.removeprefix("?"))
