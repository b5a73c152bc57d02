import re

CODE = re.compile(r"""(?:[^"#]|"(?:\\.|[^"\\])*(?:"|\\?$))*""")


def strip_comments(source: str) -> str:
    return "\n".join(CODE.match(line)[0].rstrip(" ") for line in source.split("\n"))
