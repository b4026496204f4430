"""The actor in which Ray Tune runs the slots: their resources, their placement, their retries."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from autoslim.executors._slot import slot


class Host:
    """Ends with its driver, and all slots with it."""

    def run(self, owner: Any, slots: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]]) -> list[str]:
        """Keep the slots, pairs of (configuration, resources), until they end by themselves; a slot that is lost is begun again without
        limit. Returns the errors of those that could not."""
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
        os.environ["TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S"] = "0"
        from ray import tune

        class Teller(tune.Callback):
            """Tells the owner of slots that were lost."""

            def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
                owner.mishap.remote(f"{trial.config['slot']['name']}: {trial.get_error() or 'lost'}"[-400:])

        resources = {config["name"]: dict(bundle) for config, bundle in slots}

        def bundles(config: Mapping[str, Any]) -> Any:
            return tune.PlacementGroupFactory([resources[config["slot"]["name"]]])

        folder = tempfile.mkdtemp(prefix="autoslim-tune-")
        try:
            found = tune.Tuner(
                tune.with_resources(hosted, bundles),
                param_space={"slot": tune.grid_search([dict(config) for config, _ in slots])},
                run_config=tune.RunConfig(
                    name="slots",
                    storage_path=folder,
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=-1),  # its default retries nothing
                    callbacks=[Teller()],
                ),
            ).fit()
            return [str(error) for error in found.errors]
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def hosted(config: Mapping[str, Any]) -> None:
    slot(config["slot"])
