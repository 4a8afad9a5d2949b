"""Ranges of numbers: fields of a config, knobs and arguments are checked by the same code with the same messages."""

import math
import numbers
from typing import Any, NamedTuple


class Range(NamedTuple):
    """A finite number in [least, most], or in (least, most] if `above`; an integer if `whole`."""

    least: float = -math.inf
    most: float = math.inf
    whole: bool = False
    above: bool = False

    def __str__(self) -> str:
        """As in "must be a whole number >= 1"."""
        kind = "a whole number" if self.whole else "a number"
        least, most = (f"{end:,.12g}" for end in (self.least, self.most))
        if self.most == math.inf:
            return kind if self.least == -math.inf else f"{kind} {'>' if self.above else '>='} {least}"
        return f"{kind} > {least} and <= {most}" if self.above else f"{kind} from {least} to {most}"

    def holds(self, value: Any) -> bool:
        """Whether `value` is a number in the range; text and bools are not."""
        if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
            return False
        number = float(value)
        inside = self.least <= number <= self.most and not (self.above and number == self.least)
        return inside and (number == int(number) or not self.whole)


POSITIVE = Range(0, above=True)
AT_LEAST_0, AT_LEAST_1 = Range(0), Range(1)
COUNT, SOME = Range(0, whole=True), Range(1, whole=True)
SHARE = Range(0, 1)
SEED = Range(0, 2**31, whole=True)


def check(where: str, value: Any, allowed: Range) -> None:
    """Raise a one-line ValueError unless `value` is in the range."""
    if not allowed.holds(value):
        raise ValueError(f"{where} must be {allowed}, got {value!r}")
