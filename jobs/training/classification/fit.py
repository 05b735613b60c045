"""The stage that grows the model: what the search found, judged between the libraries, then fitted on all."""

from typing import Any

import msgspec
import numpy as np

from jobs.training.boosting import Sample
from jobs.training.classification.prepare import parts_of
from jobs.training.workspace import Workspace
from models.evaluation import quality
from pipelines.training.configuration import Trees

GROWN = "model.bin"


def fit(space: Workspace) -> dict[str, Any]:
    """Leaves the model. With a search, the best settings of each library learn from the train part and the
    validation part decides; without, the configured settings count. The model then learns from both parts."""
    given, parts, threads = space.configuration, parts_of(space), space.around.processes
    found = [msgspec.convert(one["settings"], Trees) for one in space.state.details("search")["best"]]
    judged: dict[str, float] = {}
    chosen = found[0] if found else given.trees
    if len(found) > 1:
        sample = Sample(space.matrix[: parts.train_end], space.labels[: parts.train_end], threads=threads)
        later, labels = np.asarray(space.matrix[parts.validation]), space.labels[parts.validation]
        for settings in found:
            what = f"compare {settings.engine}"
            model = sample.fit(settings, seed=given.seed, progress=space.progress, what=what)
            judged[settings.engine] = float(getattr(quality(labels, model.score(later)), given.search.metric))
        chosen = max(found, key=lambda settings: judged[settings.engine])
        del sample
    sample = Sample(space.matrix[parts.learned], space.labels[parts.learned], threads=threads)
    what = f"train the {given.name} model"
    model = sample.fit(chosen, seed=given.seed, progress=space.progress, what=what)
    space.folder.write(f"data/{GROWN}", model.save())
    return {"settings": msgspec.to_builtins(chosen), "validation": judged, "trained_rows": parts.learned_end}


def settings_of(space: Workspace) -> Trees:
    """The settings of the model that `fit` grew."""
    return msgspec.convert(space.state.details("fit")["settings"], Trees)
