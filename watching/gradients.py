"""What the norm of a step's gradient tells: not a number, exploded, or zero for so long that nothing is learnt."""

import math
import statistics
from collections import deque

MEASURED, KEPT = 20, 50
EXPLODED, IN_A_ROW = 1_000.0, 3
"""A norm has exploded that is so many times the median of the last `KEPT` (of `MEASURED` at least), in so many steps in
a row: clipping bounds what one of them does, and a single one may be a strange row."""
DEAD = 50
"""Steps in a row with a gradient of exactly zero."""
MOST_SKIPPED = 20
"""Steps in a row that fp16's loss scale may skip; it is halved in each, so this is a millionth of the first."""


class Gradients:
    """Looks at the norm of each step's gradient, before it is clipped and before the step is made."""

    def __init__(self, *, may_be_zero: bool = False) -> None:
        self.may_be_zero = may_be_zero
        """GRPO's is, in a step whose groups have no spread of rewards."""
        self._usual: deque[float] = deque(maxlen=KEPT)
        self._zeros = self._exploded = self._not_finite = 0

    def look(self, norm: float, *, scaled: bool = False) -> str | None:
        """Take the norm of a step; return what is wrong with it, or None. `scaled`: fp16's loss scale is in use.

        A scale that is too large makes the gradient infinite: the step is left out then, and the scale halved.

        >>> Gradients().look(float("nan"))
        'the gradient is nan'
        >>> Gradients().look(float("inf"), scaled=True)
        """
        if not math.isfinite(norm):
            self._not_finite += 1
            if not scaled:
                return f"the gradient is {norm}"
            too_many = f"the gradient was beyond fp16 in {MOST_SKIPPED} steps in a row, whatever the loss scale"
            return too_many if self._not_finite >= MOST_SKIPPED else None
        self._not_finite = 0
        self._zeros = self._zeros + 1 if norm == 0 else 0
        if self._zeros >= DEAD and not self.may_be_zero:
            return f"the gradient was 0 in {DEAD} steps in a row: nothing is learnt"
        usual = statistics.median(self._usual) if len(self._usual) >= MEASURED else math.inf
        if norm > EXPLODED * usual:
            self._exploded += 1
            if self._exploded >= IN_A_ROW:
                return f"the gradient's norm has exploded, from {usual:.2g} to {norm:.2g}"
            return None
        self._exploded = 0
        if norm > 0:
            self._usual.append(norm)
        return None
