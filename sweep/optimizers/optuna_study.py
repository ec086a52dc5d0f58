"""The history of a sweep as an Optuna study, kept in memory; imported only where Optuna is used.

Optuna's own in-memory storage copies every trial it gives out, and refuses to replace a result.
This one holds what the samplers read and nothing else.
"""

from __future__ import annotations

import datetime
from collections.abc import Container, Hashable, Sequence
from typing import Any, final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from sweep.optimizers.history import Record, State
from sweep.space import Choice, Distribution, Integer, LogInteger, LogUniform, Ordinal, Params, SearchSpace, Uniform
from sweep.space.values import fresh, key

__all__ = ["Axis", "Storage", "make_axes"]

_STUDY = 0
_STARTED = datetime.datetime(2000, 1, 1)  # Optuna wants some time; no sampler reads it
_STATES = {
    State.PENDING: TrialState.RUNNING,
    State.SEEN: TrialState.COMPLETE,
    State.FAILED: TrialState.FAIL,
    State.VOID: TrialState.FAIL,
}
_HUGE = 1e100  # samplers square what they are told
_WAITING = (TrialState.WAITING,)
_PLAIN = (type(None), bool, int, float, str)


@final
class Axis:
    """One parameter as Optuna sees it.

    Args:
        part: Our distribution, with more than one value.

    Attributes:
        distribution: Optuna's counterpart. Options of a `Choice` stand for themselves where Optuna can tell them
            apart, else for their place; those of an `Ordinal` are whole numbers; a scale that
            Optuna lacks is its unit interval.
    """

    def __init__(self, part: Distribution) -> None:
        self._part = part
        self._places: dict[Hashable, int] | None = None
        self._unit = False
        if isinstance(part, Uniform | LogUniform):
            self.distribution: BaseDistribution = FloatDistribution(part.low, part.high, log=isinstance(part, LogUniform))
        elif isinstance(part, Integer):
            high = part.high - (part.high - part.low) % part.step
            self.distribution = IntDistribution(part.low, high, step=part.step)
        elif isinstance(part, LogInteger):
            self.distribution = IntDistribution(part.low, part.high, log=True)
        elif isinstance(part, Choice | Ordinal):
            self.distribution = self._options(part)
        else:
            self.distribution, self._unit = FloatDistribution(0.0, 1.0), True

    def _options(self, part: Choice | Ordinal) -> BaseDistribution:
        options: Sequence[Any] = part.options
        itself = all(type(option) in _PLAIN for option in options) and len(set(options)) == len(options)
        if isinstance(part, Choice) and itself:
            return CategoricalDistribution(tuple(options))
        self._places = {key(option): place for place, option in enumerate(options)}
        if isinstance(part, Ordinal):
            return IntDistribution(0, len(options) - 1)
        return CategoricalDistribution(tuple(range(len(options))))

    def encode(self, value: object) -> Any:
        """Return our value as Optuna's."""
        if self._unit:
            return self._part.to_unit(value)
        return value if self._places is None else self._places[key(value)]

    def decode(self, value: Any) -> Any:
        """Return Optuna's value as ours."""
        if self._unit:
            return self._part.from_unit(value)
        if self._places is not None:
            return fresh(self._part.options[int(value)])  # type: ignore[attr-defined]  # only options have places
        if isinstance(self._part, Choice):
            return value
        # CMA-ES and others compute in numpy; a float may leave its range by rounding
        return int(value) if isinstance(self._part, Integer | LogInteger) else self._clipped(float(value))

    def draw(self, trial: optuna.Trial, name: str) -> Any:
        """Let the sampler choose a value, Optuna's."""
        domain = self.distribution
        if isinstance(domain, FloatDistribution):
            return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
        if isinstance(domain, IntDistribution):
            return trial.suggest_int(name, domain.low, domain.high, step=domain.step, log=domain.log)
        return trial.suggest_categorical(name, domain.choices)  # type: ignore[attr-defined]  # the third and last kind

    def _clipped(self, value: float) -> float:
        domain = self.distribution
        return min(max(value, domain.low), domain.high) if isinstance(domain, FloatDistribution) else value


def make_axes(space: SearchSpace) -> dict[str, Axis]:
    """Return an axis for each parameter with more than one value."""
    return {name: Axis(space[name]) for name in space.dimensions}


@final
class Storage(BaseStorage):
    """One study in memory, whose results may be replaced.

    Attributes:
        trials: What the samplers see, by number.
        attributes: What the samplers keep on the study.
        written: What a sampler has written since this was last emptied: ``{"trial": {…}, "study": {…}}``.
    """

    def __init__(self, directions: Sequence[StudyDirection]) -> None:
        self._directions = list(directions)
        self.trials: list[FrozenTrial] = []
        self.attributes: dict[str, object] = {}
        self.written: dict[str, dict[str, object]] = {}

    def add(self, params: Params, axes: dict[str, Axis], attributes: dict[str, object]) -> FrozenTrial:
        """Append a running trial; ``params`` are Optuna's values."""
        number = len(self.trials)
        trial = FrozenTrial(
            number=number,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=_STARTED,
            datetime_complete=None,
            params=params,
            distributions={name: axes[name].distribution for name in params},
            user_attrs={},
            system_attrs=attributes,
            intermediate_values={},
            trial_id=number,
        )
        self.trials.append(trial)
        return trial

    def tell(self, number: int, record: Record) -> None:
        """Give a trial its latest result."""
        trial = self.trials[number]
        state = _STATES[record.state]
        losses = [min(max(loss, -_HUGE), _HUGE) for loss in record.losses]
        if state is TrialState.COMPLETE and record.partial and record.step > 0 and len(record.losses) == 1:
            state = TrialState.PRUNED  # several objectives know no pruning in Optuna
            trial.intermediate_values = {record.step: losses[0]}
        self.set_trial_state_values(number, state, losses or None)

    def forbid(self, number: int, constraints: Sequence[float]) -> None:
        """Set, or replace, a trial's constraints, feasible at <= 0; one that failed counts as pruned then, not as nothing."""
        trial = self.trials[number]
        kept = trial._system_attrs.items()
        trial._system_attrs = {name: value for name, value in kept if not name.startswith("constraints:")}
        for place, value in enumerate(constraints):
            trial.set_constraint(str(place), float(value))
        if trial.state is TrialState.FAIL:
            trial.state = TrialState.PRUNED

    def lie(self, number: int) -> None:
        """Give a trial the worst values seen, if any were."""
        values = [trial.values for trial in self.trials if trial.state is TrialState.COMPLETE]
        if values:
            self.set_trial_state_values(number, TrialState.COMPLETE, [max(column) for column in zip(*values, strict=True)])

    # what Optuna asks of a storage; there is one study, and a trial's id is its number

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Return the one study."""
        return _STUDY

    def delete_study(self, study_id: int) -> None:
        """Forget everything."""
        self.trials.clear()

    def set_study_user_attr(self, study_id: int, key: str, value: object) -> None:
        """Keep nothing: user attributes are the user's."""

    def set_study_system_attr(self, study_id: int, key: str, value: object) -> None:
        """Keep a sampler's note on the study."""
        self.attributes[key] = value
        self.written.setdefault("study", {})[key] = value

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the one study."""
        return _STUDY

    def get_study_name_from_id(self, study_id: int) -> str:
        """Return the name of the one study."""
        return "sweep"

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return the directions."""
        return self._directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, object]:
        """Return nothing."""
        return {}

    def get_study_system_attrs(self, study_id: int) -> dict[str, object]:
        """Return the samplers' notes."""
        return self.attributes

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return nothing: nobody browses this storage."""
        return []

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Append an empty running trial, or a copy of the template."""
        if template_trial is None:
            return int(self.add({}, {}, {}).number)
        template_trial.number = template_trial._trial_id = len(self.trials)
        self.trials.append(template_trial)
        return int(template_trial.number)

    def set_trial_param(self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution) -> None:
        """Set a parameter."""
        trial = self.trials[trial_id]
        trial._params[param_name] = distribution.to_external_repr(param_value_internal)
        trial._distributions[param_name] = distribution

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set, or replace, a trial's state and values."""
        trial = self.trials[trial_id]
        trial.state, trial.values = state, None if values is None else list(values)
        trial.datetime_complete = _STARTED if state.is_finished() else None
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Set a value on the way."""
        self.trials[trial_id].intermediate_values[step] = intermediate_value

    def set_trial_user_attr(self, trial_id: int, key: str, value: object) -> None:
        """Keep nothing."""

    def set_trial_system_attr(self, trial_id: int, key: str, value: object) -> None:
        """Keep a sampler's note on a trial."""
        self.trials[trial_id]._system_attrs[key] = value
        self.written.setdefault("trial", {})[key] = value

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial, itself."""
        return self.trials[trial_id]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials themselves (samplers do not write to them); ``deepcopy`` is not needed."""
        if states == _WAITING:  # asked before every suggestion; nothing ever waits here
            return []
        return [trial for trial in self.trials if states is None or trial.state in states]
