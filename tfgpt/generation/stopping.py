"""When a row ends, and which text may already be shown. NumPy-free, TensorFlow-free."""

from collections.abc import Iterable


class StopStrings:
    """Cuts a stream of text before the first stop string, and holds back what may still become one.

    Of several stop strings the one that is complete first wins, and among those that end at the same place
    the longest: so the result does not depend on how the text was cut into pieces. Use one per row.
    """

    def __init__(self, stop: Iterable[str]):
        self._stop = tuple(stop)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text that may be shown after `piece` arrived; sets `found` when a stop string is complete."""
        if not self._stop:
            return piece
        text = self._held + piece
        end, start = self._first_match(text)
        if end is not None:
            self.found = True
            self._held = ""
            return text[:start]
        keep = self._possible_start(text)
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """What was held back, when the row ends for another reason."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> tuple[int | None, int]:
        matches = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        return min(matches, default=(None, 0))

    def _possible_start(self, text: str) -> int:
        """The first index from which the rest of `text` is the beginning of a stop string."""
        longest = max(len(stop) for stop in self._stop) - 1
        for start in range(max(0, len(text) - longest), len(text)):
            rest = text[start:]
            if any(stop.startswith(rest) for stop in self._stop):
                return start
        return len(text)


class RowText:
    """The text of one row as it grows: tokens in, complete characters out, cut at the stop strings.

    Without a tokenizer there is no text: every piece is empty and `text` is None.
    """

    def __init__(self, tokenizer, stop: Iterable[str]):
        self._decoder = None if tokenizer is None else tokenizer.stream_decoder()
        self._stop = StopStrings(stop)
        self._pieces: list[str] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self._stop.found

    @property
    def text(self) -> str | None:
        """All pieces so far, joined."""
        return None if self._decoder is None else "".join(self._pieces)

    def push(self, token_id: int) -> str:
        """The text that became certain with this token."""
        if self._decoder is None:
            return ""
        return self._keep(self._stop.push(self._decoder.push(token_id)))

    def finish(self) -> str:
        """The rest of the text, when the row ends by length or by an end-of-text id."""
        if self._decoder is None or self._stop.found:
            return ""
        piece = self._stop.push(self._decoder.flush())
        return self._keep(piece if self._stop.found else piece + self._stop.flush())

    def _keep(self, piece: str) -> str:
        self._pieces.append(piece)
        return piece
