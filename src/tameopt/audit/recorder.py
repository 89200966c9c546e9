"""What a training loop writes down: scalars in blocks, theta on a grid, and windows of consecutive iterates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from tameopt.run import Run

_GRID_POINTS = 160  # our choice: enough for fits of rates, cheap beside thousands of steps
_FEWEST_POINTS = 40
_CHEAP_SECONDS = 3.0  # our choice
_SHARE = 0.25
_VECTOR_BYTES = 256 << 20  # our choice: what the iterates of one run may take on disk
_WINDOW_BYTES = 48 << 20
_WINDOW_STEPS = 160  # consecutive steps in a window, for the ODE method
_STATES = 5
_FLUSH_SECONDS = 1.0  # what kill -9 can cost at most, besides the present window
_FLUSH_STEPS = 512


def affordable_points(seconds_a_look: float, seconds_training: float) -> int:
    """How often F may be looked at: as often as fits read well, less where that is dear.

    While all looks together stay within seconds, the number does not depend on the machine; beyond, they get a
    quarter of the training's time, in halvings, and at least the fewest with which a rate can be fitted.

    >>> affordable_points(0.001, 2.0), affordable_points(1.0, 300.0), affordable_points(60.0, 300.0)
    (160, 40, 40)
    """
    points, allowed = _GRID_POINTS, max(_CHEAP_SECONDS, _SHARE * seconds_training)
    while points > _FEWEST_POINTS and points * seconds_a_look > allowed:
        points //= 2
    return points


@dataclass(frozen=True)
class Grid:
    """Which steps are looked at closely.

    full: steps at which F and its gradient are evaluated over all samples. thetas: steps at which theta is saved.
    windows: [first, last] ranges of consecutive steps whose theta are all saved. states: steps at which an adaptive
    optimizer's second moments are saved beside theta (the stability of its step needs both).
    """

    full: frozenset[int]
    thetas: frozenset[int]
    windows: tuple[tuple[int, int], ...]
    states: frozenset[int] = frozenset()

    @staticmethod
    def plan(steps: int, d: int, bytes_per_number: int, points: int = _GRID_POINTS) -> Grid:
        """A grid for `steps` steps of theta in R^d: evenly spaced, denser at the start, bounded in memory.

        Short runs of few parameters are recorded whole.
        """
        size = max(1, d * bytes_per_number)
        # evenly in the square root of the step, as the curvature along a run is looked at
        states = frozenset(round((i / _STATES * steps**0.5) ** 2) for i in range(1, _STATES))
        if steps <= 400 and d <= 64:
            every = frozenset(range(steps))
            return Grid(every, every, ((0, steps),), states)
        even = {round(i * steps / points) for i in range(points)}
        growth = 1.35 ** (_GRID_POINTS / points) ** 0.5
        early = {round(growth**i) - 1 for i in range(1, 40)}
        full = {k for k in even | early if 0 <= k < steps}
        room = max(4, _VECTOR_BYTES // size)
        thetas = set(sorted(full)[:: max(1, -(-len(full) // room))])
        length = min(_WINDOW_STEPS, _WINDOW_BYTES // (3 * size), steps // 4)
        windows: tuple[tuple[int, int], ...] = ()
        if length >= 20:
            starts = sorted({steps // 50, steps // 3, steps - length})
            windows = tuple((start, start + length) for start in starts)
            windows = tuple(window for i, window in enumerate(windows) if i == 0 or window[0] > windows[i - 1][1])
        return Grid(frozenset(full), frozenset(thetas) | states, windows, states)


@dataclass
class Recorder:
    """Buffers what a loop measures and writes it in few transactions.

    The loop calls `scalar` and `theta`; `flush` writes everything and is called by `tick` about once a second.
    """

    run: Run
    grid: Grid
    _columns: dict[str, tuple[list[int], list[float | torch.Tensor]]] = field(default_factory=dict)
    _steps: list[int] = field(default_factory=list)
    _thetas: list[torch.Tensor] = field(default_factory=list)
    _saved: set[int] = field(default_factory=set)
    _window: int = 0
    _flushed: float = field(default_factory=time.perf_counter)
    _since: int = 0

    def scalars(self, step: int, numbers: Mapping[str, float | torch.Tensor]) -> None:
        """Numbers of a step; device scalars are read when they are flushed, many at once."""
        for name, number in numbers.items():
            steps, column = self._columns.setdefault(name, ([], []))
            steps.append(step)
            column.append(number)

    def wants_theta(self, step: int) -> bool:
        """Whether theta before step `step` is to be saved."""
        return step in self.grid.thetas or self._in_window(step)

    def theta(self, step: int, theta: torch.Tensor) -> None:
        """theta: (d,), a copy nobody else writes."""
        if step in self._saved:
            return
        self._saved.add(step)
        self._steps.append(step)
        self._thetas.append(theta)

    def tick(self) -> bool:
        """Called once a step; flushes now and then, and says whether it did."""
        self._since += 1
        if self._since >= _FLUSH_STEPS or (
            self._since % 16 == 0 and time.perf_counter() - self._flushed > _FLUSH_SECONDS
        ):
            self.flush()
            return True
        return False

    def state(self, step: int, moments: Mapping[str, torch.Tensor]) -> None:
        """Optimizer state at a step, flat like theta; written at once, there are few."""
        if moments:
            self.run.save_vectors(step, moments)

    def flush(self) -> None:
        """Write everything that is buffered."""
        for name, (steps, column) in self._columns.items():
            if steps:
                self.run.record_many(steps, {name: _as_floats(column)})
        self._columns.clear()
        if self._steps:
            self.run.save_block("theta", self._steps, torch.stack(self._thetas))
            self._steps, self._thetas = [], []
        self._flushed, self._since = time.perf_counter(), 0

    def _in_window(self, step: int) -> bool:
        windows = self.grid.windows
        while self._window < len(windows) and step > windows[self._window][1]:
            self._window += 1
        return self._window < len(windows) and windows[self._window][0] <= step


def _as_floats(column: list[float | torch.Tensor]) -> list[float]:
    tensors = [number for number in column if isinstance(number, torch.Tensor)]
    if not tensors:
        return [float(number) for number in column]
    # one transfer for the whole block instead of one a step
    read = iter(torch.stack([tensor.detach().double().reshape(()) for tensor in tensors]).tolist())
    return [next(read) if isinstance(number, torch.Tensor) else float(number) for number in column]
