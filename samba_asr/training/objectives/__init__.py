"""Training objectives of networks, by name.

    objective = objectives.build("speech", AsrModel(config.model), config)
    outcome = objective(batch, block=16, augment=True, generator=generator)
    (outcome.loss.sum() / outcome.units.sum()).backward()

A new objective is a file here that registers a subclass of `Objective`.  A new loss of speech recognition registers a `Term`.
"""

from samba_asr.training.objectives import best_rq, crf, diffusion, language_model, masked, speech, terms  # noqa: F401  (they register)
from samba_asr.training.objectives.base import Objective, Outcome, objectives
from samba_asr.training.objectives.pretraining import Pretraining

__all__ = ["Objective", "Outcome", "Pretraining", "objectives"]
