"""How far the derived features of a windowed view look back: which windows a window's row is made of."""

from datetime import timedelta

from features.derived import Ago, Arithmetic, Coalesce, Derived, FeatureValue, MovingAverage
from features.view import FeatureView
from features.windows import Rolling

Span = tuple[timedelta, timedelta]
"""The nearest and the farthest, both in it."""

_NOTHING = timedelta(0)


def reach(view: FeatureView) -> tuple[Span, ...]:
    """The row of the window that ends at t reads windows that end at t - back, for each `back` in these
    spans; nearest first, apart from each other, (0, 0) or one that begins at 0 among them. The other way
    round: an event in the window that ends at t changes rows of windows that end at t + back."""
    if isinstance(view.window, Rolling):
        return ((_NOTHING, _NOTHING),)
    step, found = view.window.every, {(_NOTHING, _NOTHING)}
    for feature in view.features:
        if isinstance(feature.definition, Derived):
            found |= _spans(view, feature.definition, step)
    joined: list[Span] = []
    for nearest, farthest in sorted(found):
        if joined and nearest <= joined[-1][1] + step:
            joined[-1] = (joined[-1][0], max(joined[-1][1], farthest))
        else:
            joined.append((nearest, farthest))
    return tuple(joined)


def look_back(view: FeatureView) -> timedelta:
    """How much earlier than its own the farthest window ends that a row reads."""
    return reach(view)[-1][1]


def _spans(view: FeatureView, derived: Derived, step: timedelta) -> set[Span]:
    match derived:
        case FeatureValue(name):
            return _of(view, name, step)
        case Ago(name, by):
            return {(nearest + by, farthest + by) for nearest, farthest in _of(view, name, step)}
        case MovingAverage(name, over):
            return {(nearest, farthest + over - step) for nearest, farthest in _of(view, name, step)}
        case Arithmetic(_, left, right):
            return _spans(view, left, step) | _spans(view, right, step)
        case Coalesce(parts):
            return {span for part in parts for span in _spans(view, part, step)}
        case _:
            return set()


def _of(view: FeatureView, name: str, step: timedelta) -> set[Span]:
    definition = view.feature(name).definition
    if isinstance(definition, Derived):
        return _spans(view, definition, step)
    return {(_NOTHING, _NOTHING)}
