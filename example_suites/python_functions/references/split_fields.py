import re

FIELD = re.compile(r" *(?:'((?:[^']|'')*)'|([^;]*?)) *(?:;|$)")


def split_fields(line: str) -> list[str]:
    fields = []
    position = 0
    while True:
        match = FIELD.match(line, position)
        quoted, plain = match.groups()
        fields.append(plain if quoted is None else quoted.replace("''", "'"))
        position = match.end()
        if not match[0].endswith(";"):
            return fields
