"""What a function looks like near a point, to first order and exactly: its abs-normal form in rationals.

Near x every piecewise-smooth loss is F(x + h) = F(x) + <G, h> + sum_k c_k abs(z_k) + o(h), where each kink
z_k = <Z_k, h> + sum_{j<k} L_kj abs(z_j) + o(h) may hold earlier ones (Griewank 2013). A `Circuit` collects the
kinks that are active at x; entries are numbers with a sparse form in h and in the abs(z_k). Values are exact:
every floating-point number is a rational.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tameopt.nonsmooth.quadratic import Form, Quadratic, outer

_UNDECIDED = Fraction(1, 10**9)  # a rounded kink input nearer to 0 than this is not decided: our choice


class GermError(ValueError):
    """F is outside what the exact calculus covers at this point; the message says which operator and why."""


@dataclass
class Circuit:
    """The kinks that are active at x, in the order of evaluation.

    dim: d; the keys 0 .. d-1 of a form are h, key d + k is abs(z_k).
    forms[k]: z_k to first order; curved[k]: whether z_k has higher-order terms; values[k]: z_k at x, 0 unless there
        is a tolerance.
    resolved: whether some kink had a nonzero input (F is then homogeneous only near x); inactive: those inputs.
    rounded: whether a transcendental function was rounded on the way.
    toward: a direction h that decides the kinks at x: each is seen from x + e h, so that none is active.
    tolerance: kink inputs up to this, relative to their own slope, count as 0 (x is then only near the kink).
    second_order: whether entries carry their quadratic part too; seconds[k]: that of z_k, None where not known.
    norms[i]: the forms of a vector that is 0 at x and whose 2-norm is taken; its key in a form is -1 - i.
    """

    dim: int
    second_order: bool = False
    forms: list[Form] = field(default_factory=list)
    curved: list[bool] = field(default_factory=list)
    values: list[Fraction] = field(default_factory=list)
    resolved: bool = False
    inactive: list[Entry] = field(default_factory=list)
    seconds: list[Quadratic | None] = field(default_factory=list)
    norms: list[list[Form]] = field(default_factory=list)
    rounded: bool = False
    toward: Sequence[Fraction] | None = None
    tolerance: Fraction = Fraction(0)
    _known: dict[Any, int] = field(default_factory=dict)
    _seen: dict[int, tuple[Entry, int]] = field(default_factory=dict)

    def constant(self, value: Any) -> Entry:
        """A number that does not depend on theta."""
        return Entry(self, Fraction(value), {}, False, "affine", second=self._flat())

    def variable(self, index: int, value: Fraction) -> Entry:
        """theta_index."""
        return Entry(self, value, {index: Fraction(1)}, False, "affine", second=self._flat())

    def _flat(self) -> Quadratic | None:
        return Quadratic({}) if self.second_order else None

    def side(self, entry: Entry) -> int:
        """On which side of its kink an input lies: -1 or +1; 0 where the kink is active and `toward` is not given."""
        slope = sum((abs(value) for value in entry.form.values()), Fraction(0))
        if abs(entry.value) > self.tolerance * slope:
            self.resolved = True
            self.inactive.append(entry)
            return 1 if entry.value > 0 else -1
        if self.toward is None or not entry._linear():
            return 0
        ahead = sum((value * self.toward[j] for j, value in entry.form.items()), Fraction(0))
        if ahead == 0 and not entry.form and entry.second is not None:
            ahead = entry.second.at(self.toward)
        if ahead:
            self.inactive.append(entry)
        return (ahead > 0) - (ahead < 0)

    def kink(self, entry: Entry) -> tuple[int, Fraction]:
        """The number of the kink abs(entry) for an entry of value 0, and the factor in front of it.

        A multiple of an earlier exact kink is the same one, and so is the same entry again.
        """
        if id(entry) in self._seen:
            return self._seen[id(entry)][1], Fraction(1)
        if min(entry.form) < 0:
            raise GermError("a kink of a 2-norm at 0: its cells are no polyhedral cones.")
        lead_key = min(entry.form)
        lead = entry.form[lead_key]
        key = tuple(sorted((name, value / lead) for name, value in entry.form.items()))
        if not entry.curved and key in self._known:
            number = self._known[key]
            return number, abs(lead / self.forms[number][lead_key])
        self.forms.append(dict(entry.form))
        self.curved.append(entry.curved)
        self.values.append(entry.value)
        self.seconds.append(entry.second)
        number = len(self.forms) - 1
        if not entry.curved:
            self._known[key] = number
        self._seen[id(entry)] = (entry, number)  # the entry is held, so that its id stays its own
        return number, Fraction(1)


_NEGATED = {"convex": "concave", "concave": "convex", "affine": "affine", "unknown": "unknown"}


def _sum_shape(a: str, b: str) -> str:
    return b if a == "affine" else a if b == "affine" or a == b else "unknown"


@dataclass(frozen=True, eq=False)
class Entry:
    """One scalar of the computation: its value at x, its first-order form, and what is known of its shape.

    curved: it has higher-order terms, dropped here. shape: "affine", "convex", "concave" (globally, by the
    composition rules) or "unknown". inexact: its value went through a rounded transcendental function.
    second: its part of second order, when it is known and no kink is inside.
    """

    circuit: Circuit
    value: Fraction
    form: Form
    curved: bool
    shape: str
    inexact: bool = False
    second: Quadratic | None = None

    @property
    def is_constant(self) -> bool:
        return not self.form and not self.curved

    def _like(
        self,
        value: Fraction,
        form: Form,
        curved: bool,
        shape: str,
        other: Entry | None = None,
        second: Quadratic | None = None,
    ) -> Entry:
        inexact = self.inexact or (other is not None and other.inexact)
        return Entry(self.circuit, value, form, curved, shape, inexact, second)

    def _linear(self) -> bool:
        """Whether its first-order form is linear in h: no kink inside."""
        return all(0 <= key < self.circuit.dim for key in self.form)

    def _other(self, other: Any) -> Entry:
        return other if isinstance(other, Entry) else self.circuit.constant(other)

    def __add__(self, other: Any) -> Entry:
        b = self._other(other)
        form = dict(self.form)
        for key, coefficient in b.form.items():
            total = form.get(key, Fraction(0)) + coefficient
            if total:
                form[key] = total
            else:
                form.pop(key, None)
        shape = _sum_shape(self.shape, b.shape)
        second = self.second.plus(b.second) if self.second is not None and b.second is not None else None
        return self._like(self.value + b.value, form, self.curved or b.curved, shape, b, second)

    __radd__ = __add__

    def scaled(self, factor: Fraction) -> Entry:
        """factor * self."""
        if factor == 0:
            return self.circuit.constant(0)
        shape = self.shape if factor > 0 else _NEGATED[self.shape]
        form = {key: factor * coefficient for key, coefficient in self.form.items()}
        second = Quadratic({}).plus(self.second, factor) if self.second is not None else None
        return self._like(factor * self.value, form, self.curved, shape, second=second)

    def __neg__(self) -> Entry:
        return self.scaled(Fraction(-1))

    def __sub__(self, other: Any) -> Entry:
        return self + -self._other(other)

    def __rsub__(self, other: Any) -> Entry:
        return self._other(other) - self

    def __mul__(self, other: Any) -> Entry:
        b = self._other(other)
        if b.is_constant:
            return self.scaled(b.value)
        if self.is_constant:
            return b.scaled(self.value)
        form = (self.scaled(b.value) + b.scaled(self.value)).form
        shape = "convex" if b is self and self.shape == "affine" else "unknown"
        return self._like(self.value * b.value, form, True, shape, b, self._product(b))

    def _product(self, b: Entry) -> Quadratic | None:
        if self.second is None or b.second is None or not (self._linear() and b._linear()):
            return None
        cross = Quadratic(outer(self.form, b.form))
        cross = cross.plus(self.second, b.value).plus(b.second, self.value)
        more = any(self.second.terms) or any(b.second.terms) or self.second.beyond or b.second.beyond
        return Quadratic(cross.terms, more)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Entry:
        b = self._other(other)
        if b.value == 0:
            raise GermError("a division by 0: F is not finite here.")
        if b.is_constant:
            return self.scaled(1 / b.value)
        return self * b.smooth(1 / b.value, -1 / b.value**2)

    def __rtruediv__(self, other: Any) -> Entry:
        return self._other(other) / self

    def __pow__(self, exponent: Any) -> Entry:
        power = int(exponent)
        if power != exponent or power < 0:
            return self.power(float(exponent))
        if power == 0:
            return self.circuit.constant(1)
        if power == 1:
            return self
        shape = "convex" if power % 2 == 0 and self.shape == "affine" else "unknown"
        result = self.smooth(self.value**power, power * self.value ** (power - 1), shape)
        if self.second is None or self.is_constant or not self._linear():
            return result
        bend = Fraction(power * (power - 1), 2) * self.value ** (power - 2)
        second = Quadratic({}).plus(self.second, power * self.value ** (power - 1))
        second = second.plus(Quadratic(outer(self.form, self.form)), bend)
        more = power > 2 or any(self.second.terms) or self.second.beyond
        return result._like(result.value, result.form, True, shape, second=Quadratic(second.terms, more))

    def smooth(self, value: Fraction, slope: Fraction, shape: str = "unknown") -> Entry:
        """f(self) for f differentiable here, of value f(self.value) and derivative `slope`."""
        if self.is_constant:
            return self._like(value, {}, False, "affine", second=self.second)
        return self._like(value, self.scaled(slope).form, True, shape)

    def rounded(self, value: float, slope: float, shape: str = "unknown") -> Entry:
        """As `smooth`, for a transcendental function; at 0 the functions of the table are exact."""
        if not (math.isfinite(value) and math.isfinite(slope)):
            raise GermError("a function is not finite, or not Lipschitz, at this point.")
        result = self.smooth(Fraction(value), Fraction(slope), shape)
        if self.value == 0 and not self.inexact:
            return result
        self.circuit.rounded = True
        return Entry(result.circuit, result.value, result.form, result.curved, result.shape, True)

    def power(self, exponent: float) -> Entry:
        """self ** exponent for a real exponent; needs self > 0, or an integer exponent."""
        if self.value > 0:
            exact = _root(self.value) if exponent == 0.5 else None
            if exact is not None:
                return self.smooth(exact, 1 / (2 * exact))
            value = float(self.value)
            return self.rounded(value**exponent, exponent * value ** (exponent - 1))
        if self.value == 0 and self.is_constant and exponent > 0:
            return self.circuit.constant(0)
        if self.value == 0 and exponent > 1:
            return self.smooth(Fraction(0), Fraction(0))
        if self.value == 0:
            raise GermError(
                f"a power {exponent:g} of 0: F need not be Lipschitz here, and then it has no Clarke "
                "subdifferential. A 2-norm is covered when written as torch.linalg.vector_norm."
            )
        raise GermError(f"a power {exponent:g} of a negative number: F is not finite here.")

    def absolute(self) -> Entry:
        """abs(self): linear where self is not 0, a kink where it is."""
        convex = self.shape == "affine"
        if self.is_constant:
            return self._like(abs(self.value), {}, False, "affine", second=self.second)
        if self.inexact and abs(self.value) < _UNDECIDED:
            raise GermError(
                f"a kink input is {float(self.value):.1e} after a rounded transcendental function: whether it is 0 "
                "cannot be decided."
            )
        side = self.circuit.side(self)
        if side:
            same = self if side > 0 else -self
            return same._like(
                same.value, same.form, same.curved, "convex" if convex else "unknown", second=same.second
            )
        if not self.form:  # it vanishes to second order, and so does its absolute value with its gradient
            return Entry(self.circuit, Fraction(0), {}, True, "unknown")
        number, factor = self.circuit.kink(self)
        form = {self.circuit.dim + number: factor}
        return Entry(self.circuit, Fraction(0), form, self.curved, "convex" if convex else "unknown")

    def positive_part(self) -> Entry:
        """max(self, 0)."""
        half = (self + self.absolute()).scaled(Fraction(1, 2))
        if self.shape in ("affine", "convex"):
            return half._like(half.value, half.form, half.curved, "convex", second=half.second)
        return half

    def maximum(self, other: Any) -> Entry:
        """max(self, other)."""
        b = self._other(other)
        if b is self:
            return self
        high = b + (self - b).positive_part()
        shape = "convex" if {self.shape, b.shape} <= {"affine", "convex"} else "unknown"
        return high._like(high.value, high.form, high.curved, shape, second=high.second)

    def minimum(self, other: Any) -> Entry:
        """min(self, other)."""
        return -((-self).maximum(-self._other(other)))


def norm2(vector: Sequence[Entry]) -> Entry:
    """The 2-norm of a vector that is 0 at x: neither smooth nor piecewise linear, it has a form of its own."""
    circuit = vector[0].circuit
    if not all(entry._linear() for entry in vector):
        raise GermError("a 2-norm at 0 of a vector that has a kink of its own.")
    forms = [dict(entry.form) for entry in vector if entry.form]
    curved = any(entry.curved for entry in vector)
    if not forms:  # it vanishes to second order, and so does its norm
        return Entry(circuit, Fraction(0), {}, True, "unknown")
    circuit.norms.append(forms)
    convex = all(entry.shape == "affine" for entry in vector)
    form = {-len(circuit.norms): Fraction(1)}
    return Entry(circuit, Fraction(0), form, curved, "convex" if convex else "unknown")


def combination(circuit: Circuit, terms: Sequence[tuple[Entry, Entry]]) -> Entry:
    """sum of a * b over the terms, accumulated in one form: a dot product costs what its nonzeros cost."""
    value, shape = Fraction(0), "affine"
    form: Form = {}
    curved = inexact = False
    second = Quadratic({}) if circuit.second_order else None
    for a, b in terms:
        if not a.is_constant and not b.is_constant:
            part, factor = a * b, Fraction(1)
        elif a.is_constant:
            part, factor = b, a.value
        else:
            part, factor = a, b.value
        inexact = inexact or a.inexact or b.inexact
        if factor == 0:
            continue
        value += factor * part.value
        curved = curved or part.curved
        second = second.plus(part.second, factor) if second is not None and part.second is not None else None
        shape = _sum_shape(shape, part.shape if factor > 0 else _NEGATED[part.shape])
        for key, coefficient in part.form.items():
            form[key] = form.get(key, Fraction(0)) + factor * coefficient
    form = {key: coefficient for key, coefficient in form.items() if coefficient}
    return Entry(circuit, value, form, curved, shape, inexact, second)


def _root(value: Fraction) -> Fraction | None:
    """The rational square root, if there is one."""
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    exact = top * top == value.numerator and bottom * bottom == value.denominator
    return Fraction(top, bottom) if exact else None


def proportional(a: Mapping[int, Fraction], b: Mapping[int, Fraction]) -> Fraction | None:
    """c with a = c b for forms a, b != 0, or None."""
    if set(a) != set(b):
        return None
    ratios = {a[key] / b[key] for key in a}
    return ratios.pop() if len(ratios) == 1 else None
