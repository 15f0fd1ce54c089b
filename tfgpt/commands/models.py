"""`tfgpt models`: the families, their sizes, and where the weights are. Loads no TensorFlow."""

from tfgpt.commands.output import print_json


def add_arguments(parser) -> None:
    """The arguments of the command."""
    parser.add_argument("family", nargs="?", metavar="FAMILY", help="only this one")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")


def run(arguments) -> int:
    """Prints a row for each published size."""
    from tfgpt.families.registry import FAMILIES, family

    families = FAMILIES.values() if arguments.family is None else [family(arguments.family)]
    rows = [_row(each, size) for each in families for size in each.sizes]
    if arguments.json:
        print_json(rows)
    else:
        _print_table(rows)
    return 0


def _row(family, size: str) -> dict:
    from tfgpt.families.counting import count_parameters

    config = family.config_of(size)
    published = family.published.get(size)
    return {
        "family": family.name,
        "size": size,
        "parameters": count_parameters(config),
        "context_length": config.context_length,
        "vocabulary_size": config.vocabulary_size,
        "num_layers": config.num_layers,
        "hidden_dim": config.hidden_dim,
        "licence": published.licence if published else None,
        "weights": published.repository if published else None,
        "paper": family.paper,
        "reference": family.reference,
    }


def _print_table(rows: list[dict]) -> None:
    columns = (
        ("family", str.ljust),
        ("size", str.ljust),
        ("parameters", str.rjust),
        ("context", str.rjust),
        ("licence", str.ljust),
        ("weights", str.ljust),
    )
    cells = [[name for name, _ in columns]]
    for row in rows:
        cells.append(
            [
                row["family"],
                row["size"],
                f"{row['parameters']:,}",
                f"{row['context_length']:,}",
                row["licence"] or "-",
                row["weights"] or "none published",
            ]
        )
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    for line in cells:
        justified = (
            justify(text, width) for text, width, (_, justify) in zip(line, widths, columns, strict=True)
        )
        print("  ".join(justified).rstrip())
