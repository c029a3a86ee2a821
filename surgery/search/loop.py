"""The search: baselines, then ask, score, journal, tell, until all trials are done or nothing is left to propose.

What the journal already holds is not scored again: it is told to the sampler as if it had just been, so that an
interrupted search that is resumed goes the way it would have gone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from surgery.errors import ResourceError, SurgeryError
from surgery.recipe.document import Document
from surgery.recipe.load import recipe_of
from surgery.search.baselines import Baseline
from surgery.search.journal import SearchJournal
from surgery.search.space import Genome
from surgery.search.stage import Measurement, Stage, in_one_line
from surgery.search.task import Task
from surgery.search.trial import Kind, Trial, recipe_id
from surgery.search.workbench import Workbench

Listener = Callable[[Trial], None]


@dataclass(slots=True)
class Loop:
    """A search on its way. `done` are all candidates so far, baselines first."""

    task: Task
    bench: Workbench
    stage: Stage
    journal: SearchJournal
    listener: Listener
    journaled: deque[Trial] = field(default_factory=deque)
    done: list[Trial] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def run(self, baselines: Sequence[Baseline], trials: int) -> list[Trial]:
        """Score baselines and trials and return them.

        Raises SurgeryError if the sampler cannot vary the holes, or if no baseline can be scored.
        """
        space = self.task.space
        sampler = self.task.sampler.make(space.genes, self.task.sampler_params, self.task.settings.seed)
        for baseline in baselines:
            self._take("baseline", baseline.name, baseline.document, baseline.genome)
        if all(trial.score is None for trial in self.done):
            raise SurgeryError(f"search: no baseline can be scored: {self.done[-1].failure}")
        for number in range(1, trials + 1):
            asked = sampler.ask()
            if asked is None:
                break
            genome = tuple(asked)
            trial = self._take("trial", f"trial {number}", space.filled(genome), genome)
            sampler.tell(genome, self._lower_is_better(trial))
        return self.done

    def _take(self, kind: Kind, name: str, document: Document, genome: Genome | None) -> Trial:
        """Score a candidate, or take what is known of it, and note it."""
        seed = self.task.settings.seed
        wanted = Trial(len(self.done), kind, name, recipe_id(document), genome, seed)
        if self.journaled:
            trial = self._replayed(wanted)
        else:
            trial = self._scored(wanted, document)
            self.journal.append(trial)
        self.done.append(trial)
        self.listener(trial)
        return trial

    def _replayed(self, wanted: Trial) -> Trial:
        trial = self.journaled.popleft()
        if (trial.kind, trial.name, trial.id, trial.genome) != (
            wanted.kind,
            wanted.name,
            wanted.id,
            wanted.genome,
        ):
            raise ResourceError(
                f"{self.journal.path}: candidate {trial.number} is `{trial.name}` with other values than this search "
                "proposes: its sampler has changed; search into another folder"
            )
        return trial

    def _scored(self, wanted: Trial, document: Document) -> Trial:
        """Return the candidate with its score, or with the reason why it has none."""
        earlier = next((trial for trial in self.done if trial.id == wanted.id), None)
        if earlier is not None:
            return self._known(wanted, earlier)
        began = time.perf_counter()
        try:
            candidate = self.bench.plan(recipe_of(document, self.task.folder))
            planned = time.perf_counter() - began
            wanted = replace(wanted, made=candidate.made())
            earlier = next((trial for trial in self.done if trial.made == wanted.made), None)
            if earlier is not None:
                return self._known(wanted, earlier)
            found = self.stage.score(candidate, self.task.params)
        except (
            Exception
        ) as error:  # ops and evaluators are anybody's code: one candidate must not end the search
            return replace(wanted, failure=in_one_line(error), wall=self._wall())
        return replace(
            wanted,
            score=found.score,
            parts=dict(found.parts),
            cost=_cost(planned, found),
            loaded=found.loaded,
            wall=self._wall(),
        )

    def _known(self, wanted: Trial, earlier: Trial) -> Trial:
        """Return a candidate with what is known of an earlier one that makes the same."""
        known = replace(wanted, score=earlier.score, failure=earlier.failure, parts=earlier.parts)
        return replace(known, made=earlier.made, same=earlier.number, wall=self._wall())

    def _wall(self) -> float:
        return round(time.monotonic() - self.started, 3)

    def _lower_is_better(self, trial: Trial) -> float:
        """Return what the sampler is told: a failure has the worst score of all candidates so far."""
        sign = 1.0 if self.task.settings.goal == "minimize" else -1.0
        if trial.score is not None:
            return sign * trial.score
        return max(sign * one.score for one in self.done if one.score is not None)


def _cost(planned: float, found: Measurement) -> dict[str, float]:
    seconds = {"plan": planned, "weights": found.weights, "evaluate": found.evaluate}
    return {name: round(value, 6) for name, value in seconds.items()}
