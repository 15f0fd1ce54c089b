"""`tfgpt quickstart`: the whole job on this machine."""

from tfgpt.locks import working_in
from tfgpt.paths import user_path


def add_arguments(parser) -> None:
    """The arguments of the command."""
    parser.add_argument("--output", default="tfgpt-quickstart", metavar="DIR")
    parser.add_argument(
        "--corpus",
        metavar="PATH",
        help="a file or directory (.txt, .jsonl, .gz); by default the sources of Python's standard library",
    )
    parser.add_argument(
        "--budget",
        choices=("small", "medium"),
        default="small",
        help="small: some minutes on 2 cores; medium: about an hour, and a model that writes better",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(arguments) -> int:
    """Runs, or goes on with, the job."""
    from tfgpt.quickstart.job import quickstart

    output = user_path(arguments.output)
    with working_in(output):
        quickstart(output, arguments.corpus, arguments.budget, as_json=arguments.json)
    return 0
