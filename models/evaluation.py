"""How well scores rank: area under the ROC curve and average precision."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from core.errors import InvalidInput


@dataclass(frozen=True)
class Quality:
    """Of `rows` scored rows, `positives` were positive."""

    auc: float
    average_precision: float
    rows: int
    positives: int


def quality(labels: npt.NDArray[np.generic], scores: npt.NDArray[np.float32]) -> Quality:
    """Raises InvalidInput when only one class is there, for then neither measure exists."""
    positives = int(np.count_nonzero(labels))
    if not 0 < positives < len(labels):
        raise InvalidInput(
            f"{positives} of {len(labels)} rows are positive", mend="give rows of both classes"
        )
    return Quality(
        auc=float(roc_auc_score(labels, scores)),
        average_precision=float(average_precision_score(labels, scores)),
        rows=len(labels),
        positives=positives,
    )
