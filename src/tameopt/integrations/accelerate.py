"""tameopt as a tracker of Accelerate: `Accelerator(log_with=TameTracker("my-run"))`."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from tameopt.extras import require
from tameopt.run import Run

_TRACKING = require("accelerate.tracking", "TameTracker")


def _json_ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _json_ready(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(inner) for inner in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


class TameTracker(_TRACKING.GeneralTracker):  # type: ignore[name-defined]
    """What `accelerator.log` is given, in a tameopt run: the loss by step is enough for `tameopt audit RUN`.

    run_name: the folder's name; logging_dir: where it goes.
    """

    name = "tameopt"
    requires_logging_directory = True
    main_process_only = True

    def __init__(self, run_name: str, logging_dir: str | os.PathLike[str] = "runs", **options: Any) -> None:
        super().__init__(**options)
        self.run = Run.create(Path(logging_dir) / run_name, {"target": run_name, "sampling": "unknown"})

    @property
    def tracker(self) -> Run:
        """The run."""
        return self.run

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep the settings of `accelerator.init_trackers`."""
        self.run.update_meta({"config": _json_ready(values)})

    def log(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        """Record the numbers among the values; without a step, at the next one."""
        numbers = {
            key: float(value)
            for key, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isinf(value)
        }
        at = self.run.last_step + 1 if step is None else step
        if numbers:
            self.run.record(at, numbers)
            self.run.update_meta({"steps_done": at})

    def finish(self) -> None:
        """Close the record."""
        self.run.update_meta({"status": "finished"})
        self.run.close()
