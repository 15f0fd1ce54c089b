"""Many requests at once: each takes a row of the cache when there is one, and leaves it when it ends.

    step     1        2        3        4        5
    row 0    prompt   prompt   a        b        c ends
    row 1             prompt   x        y  z  w  v            guessed tokens that were right come together
    row 2                      prompt   p ends   prompt       the next request

A row's numbers are the same, bit by bit, whoever is beside it. No row sees another, and what the kernels make
of one does not depend on how many there are, but for this: attention adds up in another order where a run has
several new tokens of a row than where it has one (2e-7), and where activations are rounded to 8 bits that can
move a number to the next step. So it is the row alone that decides in which kind of run its tokens go:

    one query       the new tokens of rows that do not guess: the fastest
    several         prompts, and rows that guess, with at least two places for each
    long prompts    where there is a second graph, which reads many tokens faster and rounds activations in
                    another way: prompts of at least `LONG_PROMPT` tokens, from their first to their last

and where its prompt is cut. Two operators do not go along: 4-bit products add up in another order for one row
than for several (log probabilities of a row alone and beside others differed by up to 8e-4), and a mixture of
experts multiplies the tokens of an expert together, however many there are (1e-6 to 2e-5 of a layer).
"""

import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator

from tfgpt.errors import InputError
from tfgpt.generation.guessing import GuessLength, guess
from tfgpt.generation.row import Row
from tfgpt.serving.engine_graph import EngineCache, EngineGraph, Feed

# Prompts are cut after so many tokens each, and so many together are read in one step: more keep the rows
# that decode waiting, and attention computes what lies ahead within a chunk too (a prompt of 512 tokens takes
# 5 % longer in one chunk than in two).
LARGEST_CHUNK = 256
# From so many tokens on a prompt is worth the graph for long ones, which takes as long to load as it saves on
# a dozen of them.
LONG_PROMPT = 64
# Logits of a prompt's tokens are wanted for their probabilities alone; so those of one run take no more.
LARGEST_LOGITS_BYTES = 64 * 2**20
MOST_ROWS = 32
_ONE_QUERY, _SEVERAL, _LONG_PROMPT = "one query", "several", "long prompt"
_CAPACITY_STEP = 64


class Request:
    """One prompt on its way through the engine.

    Attributes:
        row: the text so far; complete when `done`.
        events: (token id, text piece) of every new token, oldest first, for whoever streams them: take them
            out with `popleft`.
        failure: the error that ended the request, or None.
    """

    def __init__(self, row: Row):
        self.row = row
        self.events: deque[tuple[int, str]] = deque()
        self.failure: BaseException | None = None
        self._cancelled = False
        self._place: int | None = None  # the row of the cache
        self._cached = 0  # of the row's tokens, so many are in the cache
        self._guesses = GuessLength(row.options.speculate)

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self._cancelled or self.failure is not None or self.row.finish_reason is not None

    def cancel(self) -> None:
        """Ends the request; its row is free for another at the next step."""
        self._cancelled = True


_Work = list[tuple[Request, Feed]]


class Engine:
    """Requests in, tokens out; one `step` at a time.

    Args:
        graph: the engine's graph.
        context_length: prompt and new tokens of one row.
        most_rows: requests that run at once; more wait in line.
        load_prompts: loads the graph for prompts of at least `LONG_PROMPT` tokens when the first one comes,
            or None.

    `submit`, `advance` and `Request.cancel` may be called from any thread at any time, `step` by one alone.
    """

    def __init__(
        self,
        graph: EngineGraph,
        context_length: int,
        most_rows: int = MOST_ROWS,
        load_prompts: Callable[[], EngineGraph] | None = None,
    ):
        self.vocabulary_size = graph.vocabulary_size
        self.context_length = context_length
        self.most_rows = most_rows
        self.num_runs = 0
        self._graph = graph
        self._load_prompts = load_prompts
        self._prompts_graph: EngineGraph | None = None
        self._cache = EngineCache(graph)
        self._prompt_rows = max(1, LARGEST_LOGITS_BYTES // (4 * graph.vocabulary_size))
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []  # in the order of arrival
        self._turn = threading.Condition()
        self._stepping = False

    def submit(self, row: Row) -> Request:
        """Puts a row (`tfgpt.generation.row.make_rows`) in line."""
        request = Request(row)
        self._waiting.append(request)
        return request

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and all(request.done for request in self._running)

    def advance(self) -> None:
        """One step, made by this thread, or waited for where another one is at it."""
        with self._turn:
            if self._stepping:
                self._turn.wait()
                return
            self._stepping = True
        try:
            self.step()
        finally:
            with self._turn:
                self._stepping = False
                self._turn.notify_all()

    def step(self) -> None:
        """Feeds every running request and hands it its logits; does nothing when there are none.

        A request whose logits are not finite fails by itself, and an error of the runtime fails those that it
        was running (`Request.failure`): whose thread makes the step says nothing about whose requests they
        are. Where the graph for long prompts cannot be loaded, a warning says so once and they are read by
        the other.
        """
        self._running = [request for request in self._running if not request.done]
        self._admit()
        work = self._plan()
        if not work:
            return
        for run, part in self._in_runs(work):
            try:
                self._run(part, *run)
            except Exception as error:
                for request, _ in part:
                    if not request.done:
                        request.failure = error

    def _in_runs(self, work: _Work) -> Iterator[tuple[tuple[EngineGraph, int], _Work]]:
        """((graph, least places of a row), their part of the work): long prompts last, so that the tokens of
        the others do not wait for them."""
        kinds = [self._kind_of_run(*each) for each in work]
        for kind in (_ONE_QUERY, _SEVERAL, _LONG_PROMPT):
            if part := [each for each, found in zip(work, kinds, strict=True) if found == kind]:
                graph = self._graph_of_prompts() if kind == _LONG_PROMPT else self._graph
                yield (graph, 1 if kind == _ONE_QUERY else 2), part

    def _kind_of_run(self, request: Request, feed: Feed) -> str:
        """By what the row itself is and does, and by nothing else."""
        if self._load_prompts is not None and _is_long_prompt(request, feed):
            return _LONG_PROMPT
        is_alone = _is_decoding(request) and not request.row.options.speculate
        return _ONE_QUERY if is_alone else _SEVERAL

    def _graph_of_prompts(self) -> EngineGraph:
        if self._prompts_graph is None:
            try:
                loaded = self._load_prompts()
                loaded.check_same_cache(self._graph)
                self._prompts_graph = loaded
            except InputError as error:
                self._prompts_graph = self._graph  # first, since a warning may be made an error
                warnings.warn(f"long prompts are read the slower way: {error}", stacklevel=2)
        return self._prompts_graph

    def _run(self, work: _Work, graph: EngineGraph, least_chunk: int) -> None:
        logits = self._cache.run([feed for _, feed in work], graph, least_chunk)  # [wanted, vocabulary]
        self.num_runs += 1
        first = 0
        for request, feed in work:
            _take(request, feed, logits[first : first + feed.wanted])
            first += feed.wanted

    def _admit(self) -> None:
        """Free rows to those who wait, the lowest row first, so that few are bound."""
        free = sorted(
            set(range(self.most_rows)) - {request._place for request in self._running}, reverse=True
        )
        while free and self._waiting:
            request = self._waiting.popleft()
            if not request.done:
                request._place = free.pop()
                self._running.append(request)
        if self._running:
            slots = max(len(request.row.prompt) + request.row.limit for request in self._running)
            # A chunk takes its whole width, whatever is empty in it: also behind the longest row.
            room = slots + min(LARGEST_CHUNK, max(_largest_feed(request) for request in self._running))
            rows = 1 + max(request._place for request in self._running)
            # Twice as many rows at once, so that growing copies little.
            rows = min(self.most_rows, 1 << (rows - 1).bit_length())
            self._cache.reserve(rows, -(-room // _CAPACITY_STEP) * _CAPACITY_STEP)

    def _plan(self) -> _Work:
        """What each request is fed: decoding rows first, prompts while there is room in the step.

        The first prompt always goes on. A chunk that does not fit waits: it is not cut elsewhere, which would
        make its numbers depend on the others.
        """
        decoding = [request for request in self._running if _is_decoding(request)]
        work = [(request, _next_tokens(request)) for request in decoding]
        left, scored = LARGEST_CHUNK - sum(len(feed.token_ids) for _, feed in work), self._prompt_rows
        prompts = [request for request in self._running if request not in decoding]
        for place, request in enumerate(prompts):
            feed = _prompt_chunk(request, self._prompt_rows)
            scores = feed.wanted if request.row.options.prompt_logprobs else 0
            if place == 0 or (len(feed.token_ids) <= left and scores <= scored):
                work.append((request, feed))
                left -= len(feed.token_ids)
                scored -= scores
        return work


def _is_decoding(request: Request) -> bool:
    """Whether the whole prompt is in the cache; its last token counts as prompt, wherever a chunk ended."""
    return request._cached >= max(len(request.row.prompt), len(request.row.token_ids) - 1)


def _is_long_prompt(request: Request, feed: Feed) -> bool:
    return feed.start < len(request.row.prompt) >= LONG_PROMPT


def _largest_feed(request: Request) -> int:
    return max(len(request.row.prompt) - request._cached, 1 + request.row.options.speculate)


def _next_tokens(request: Request) -> Feed:
    """The last token, and guesses of those after it."""
    row = request.row
    # The last token that may come is not worth guessing behind.
    most = min(request._guesses.now, row.limit - row.num_new - 1, LARGEST_CHUNK - 1)
    token_ids = [row.token_ids[-1], *guess(row.token_ids, most)]
    return Feed(request._place, request._cached, token_ids, len(token_ids))


def _prompt_chunk(request: Request, most_scored: int) -> Feed:
    """The next tokens of a prompt; at most `most_scored` where the logits of all are wanted."""
    row, start = request.row, request._cached
    count = min(LARGEST_CHUNK, len(row.prompt) - start)
    if row.options.prompt_logprobs:
        count = min(count, most_scored)
        wanted = count
    else:
        wanted = int(start + count == len(row.prompt))
    return Feed(request._place, start, row.prompt[start : start + count], wanted)


def _take(request: Request, feed: Feed, logits) -> None:
    """New tokens out of logits [wanted, vocabulary]; guesses count until the first that is wrong."""
    row = request.row
    start, known = feed.start, len(row.token_ids)
    end = start + len(feed.token_ids)
    request._cached = min(end, known)
    if row.options.prompt_logprobs and start < len(row.prompt):
        row.score_prompt(logits)
    if end < known or request.done:
        return
    guessed = feed.token_ids[known - start :]
    right = 0
    for each in logits[len(logits) - 1 - len(guessed) :]:
        try:
            token_id, piece = row.advance(each)
        except FloatingPointError as error:
            request.failure = error
            return
        request.events.append((token_id, piece))
        if row.finish_reason is not None or right == len(guessed) or guessed[right] != token_id:
            break
        right += 1
        request._cached += 1
    request._guesses.learn(len(guessed), right)
