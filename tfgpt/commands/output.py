"""What commands write to standard output for programs: one JSON document."""

import json
import sys


def print_json(value) -> None:
    """Prints `value` as one line of JSON that every parser reads, whatever the terminal's encoding.

    NaN and infinity, which JSON does not have, become null.
    """
    strict = json.loads(json.dumps(value), parse_constant=lambda name: None)
    encoding = getattr(sys.stdout, "encoding", None) or ""
    print(json.dumps(strict, ensure_ascii=encoding.lower().replace("-", "") != "utf8"))
