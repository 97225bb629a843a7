"""``vae-dist sweep`` with a table [search]: optuna chooses the settings of each training.

What was tried lies in a journal in the folder of the runs: tasks that share a search learn from each
other, and one that was killed goes on with the trainings that are not done.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.lock import Lock
from launch.sweep.carry_out import STOPPED


class Search:
    """The trainings of one search.

    Parameters
    ----------
    space : dict
        Setting to a list of choices, or to ``{low, high}`` with ``log`` or ``step``; whole numbers
        where both ends are.
    runs_dir : Path
    name : str
        What the names of the runs begin with.
    where : str
        Names the file in messages.

    Raises
    ------
    UserError
        If optuna is not installed, or the space is none.
    """

    def __init__(self, space: dict[str, Any], runs_dir: Path, name: str, where: str) -> None:
        try:
            import optuna
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend
        except ImportError:
            raise UserError(
                f"{where}: [search] needs optuna; Fix: pip install 'vae-dist[optuna]'"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._states = optuna.trial.TrialState
        self._space = {key: _distribution(key, value, where) for key, value in space.items()}
        self._runs_dir, self._name = runs_dir, name
        with files_of_user(f"--runs-dir {runs_dir}: cannot be written"):
            runs_dir.mkdir(parents=True, exist_ok=True)
            storage = JournalStorage(JournalFileBackend(str(runs_dir / f"{name}.optuna.log")))
            self.study = optuna.create_study(
                study_name=name, storage=storage, direction="minimize", load_if_exists=True
            )

    def run_of(self, number: int) -> str:
        """Name of the run of a trial."""
        return f"{self._name}-{number:03d}"

    def tried(self) -> list[tuple[str, dict[str, Any]]]:
        """Runs and their settings, in the order in which they were chosen."""
        return [(self.run_of(t.number), t.params) for t in self.study.get_trials(deepcopy=False)]

    def carry_out(
        self,
        trials: int,
        train: Callable[[str, dict[str, Any]], int],
        loss: Callable[[str], float | None],
    ) -> int:
        """Train until all tasks together made this number of trials; returns the exit code.

        Parameters
        ----------
        trials : int
        train : callable
            Given a run's name and its settings; gives the exit code.
        loss : callable
            Of a run that was trained: what is minimised.
        """
        failed = 0
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == self._states.RUNNING and not self._is_trained(trial.number):
                code = self._try(trial.number, trial.params, train, loss)
                if code == STOPPED or code < 0:
                    return STOPPED
                failed += code != 0
        while len(self.study.get_trials(deepcopy=False)) < trials:
            new = self.study.ask(self._space)
            code = self._try(new.number, new.params, train, loss)
            if code == STOPPED or code < 0:
                return STOPPED
            failed += code != 0
        return 1 if failed else 0

    def _try(
        self,
        number: int,
        params: dict[str, Any],
        train: Callable[[str, dict[str, Any]], int],
        loss: Callable[[str], float | None],
    ) -> int:
        run = self.run_of(number)
        code = train(run, params)
        if code == STOPPED or code < 0:
            return code  # it stays a running one: the next task goes on with it
        value = loss(run) if code == 0 else None
        if value is None or not math.isfinite(value):
            self.study.tell(number, state=self._states.FAIL)
        else:
            self.study.tell(number, value)
        return code

    def _is_trained(self, number: int) -> bool:
        """Whether another task trains a run at this moment."""
        folder = self._runs_dir / self.run_of(number)
        folder.mkdir(exist_ok=True)
        lock = Lock(folder / "lock.json", str(folder))
        try:
            lock.acquire()
        except UserError:
            return True
        lock.release()
        return False


def _distribution(key: str, value: Any, where: str) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    try:
        if isinstance(value, list) and value:
            return CategoricalDistribution(value)
        low, high, more = value["low"], value["high"], {**value}
        del more["low"], more["high"]
        whole = isinstance(low, int) and isinstance(high, int)
        return IntDistribution(low, high, **more) if whole else FloatDistribution(low, high, **more)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{where}: {key} in [search] must be a list, or {{low = 1e-4, high = 1e-2, log = true}} "
            f"({' '.join(str(error).split())})"
        ) from error
