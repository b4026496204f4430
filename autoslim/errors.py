"""The few errors that cross rooms. Each message names the thing, the value got, the values allowed and what to do."""


class AutoSlimError(Exception):
    """Base of every error that AutoSlim raises on purpose."""


class UserError(AutoSlimError):
    """The user can mend this: a flag, a file or a task. The command line prints it as one line and exits with 2."""


class TaskFailed(UserError):
    """The task's own code raised, or its metric is no finite number. Ends one candidate; on the untouched model, the run. ``reason`` as in
    Failed."""

    def __init__(self, detail: str, reason: str = "error") -> None:
        super().__init__(detail)
        self.reason = reason


class Untreatable(AutoSlimError):
    """A technique or runtime cannot do what a recipe asks of this model. Ends one candidate, never a run."""


class ExportFailed(Untreatable):
    """A runtime cannot write or open the model's file."""


class DeviceFailed(AutoSlimError):
    """The command of ``--target cmd:`` did not tell what it should. Ends one candidate, never a run; ``reason`` as in Failed."""

    def __init__(self, detail: str, reason: str = "device") -> None:
        super().__init__(detail)
        self.reason = reason


class StudyInUse(AutoSlimError):
    """Another run holds the study's lease. The command line exits with 4."""
