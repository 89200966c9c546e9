"""The adaptors against the real packages, where they are installed."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tameopt as tame

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    from tameopt.integrations.lightning import TameCallback

    class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Linear(6, 3)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = TameCallback(
        (X, Y), forward=lambda module, batch: nn.functional.cross_entropy(module.net(batch[0]), batch[1]),
        out=tmp_path, budget=0.99,
    )  # fmt: skip
    trainer = lightning.Trainer(
        max_epochs=2, callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", gradient_clip_val=0.05, default_root_dir=tmp_path,
    )  # fmt: skip
    module = Module()
    trainer.fit(module, DataLoader(TensorDataset(X, Y), batch_size=16))
    assert callback.watching is not None
    run = callback.watching.run
    assert run.meta["steps_done"] == 8 and run.status == "finished"
    steps, after = run.series("gradient_norm")
    before = run.series("gradient_norm_before_clipping")[1]
    assert steps.size and after == pytest.approx([min(norm, 0.05) for norm in before], rel=1e-3)
    assert run.series("loss")[1].size
    problem = tame.Problem(module.net, nn.CrossEntropyLoss(), (X, Y))
    assert run.series("full_loss")[1][-1] == pytest.approx(float(problem.value()), rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from tameopt.integrations.transformers import TameCallback

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=8, num_labels=2, hidden_dropout_prob=0.1, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    tokens = torch.randint(30, (32, 8))
    rows = [{"input_ids": tokens[i], "labels": torch.tensor(i % 2)} for i in range(32)]
    callback = TameCallback({"input_ids": tokens, "labels": torch.arange(32) % 2}, out=tmp_path, budget=0.99)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "trainer"), num_train_epochs=1, per_device_train_batch_size=4,
        gradient_accumulation_steps=2, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[callback]).train()
    assert callback.watching is not None
    run = callback.watching.run
    assert run.meta["steps_done"] == 4
    assert run.series("full_loss")[1].size and run.series("loss")[1].size
    assert run.series("gradient_norm_before_clipping")[1].size


@pytest.mark.filterwarnings("ignore")
def test_accelerate(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    from tameopt.integrations.accelerate import TameTracker

    accelerator = accelerate.Accelerator(log_with=TameTracker("tracked", tmp_path), cpu=True)
    accelerator.init_trackers("project", config={"lr": 0.1, "layers": (2, 3), "kind": nn.ReLU()})
    for step in range(3):
        accelerator.log({"loss": 1.0 / (step + 1), "note": "text"}, step=step)
    accelerator.end_training()
    run = tame.Run.open(tmp_path / "tracked")
    assert run.series("loss")[1].tolist() == [1.0, 0.5, 1.0 / 3]
    assert run.meta["config"]["layers"] == [2, 3] and run.status == "finished"


def recorded(tmp_path: Path) -> tame.Run:
    with tame.Run.create(tmp_path / "r") as run:
        run.record_many([0, 1, 2], {"loss": [3.0, float("nan"), 1.0], "lr": [0.1, 0.1, 0.1]})
    return tame.Run.open(tmp_path / "r")


@pytest.mark.filterwarnings("ignore")
def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    from tameopt.integrations.trackers import to_tensorboard

    with SummaryWriter(str(tmp_path / "tb")) as writer:
        assert to_tensorboard(recorded(tmp_path), writer) == 5
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("tameopt/loss")] == [(0, 3.0), (2, 1.0)]


class Log:
    """Stands for wandb.Run: it refuses steps that go back, as wandb does."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, numbers: dict[str, float], step: int) -> None:
        assert not self.rows or step > self.rows[-1][0]
        self.rows.append((step, numbers))


def test_wandb_gets_increasing_steps(tmp_path: Path) -> None:
    from tameopt.integrations.trackers import to_wandb

    log = Log()
    assert to_wandb(recorded(tmp_path), log) == 5
    assert log.rows[2] == (2, {"tameopt/loss": 1.0, "tameopt/lr": 0.1})


def wandb_packets(log: bytes) -> Iterator[bytes]:
    """The records of an offline file: LevelDB's log format after a header of 7 bytes, checksums not looked at."""
    place, whole = 7, b""
    while place + 7 <= len(log):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768  # the rest of a block that holds no header is padding
            continue
        length, kind = struct.unpack_from("<HB", log, place + 4)
        whole += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a full record, or its last part
            yield whole
            whole = b""


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    from tameopt.integrations.trackers import to_wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(project="p", dir=tmp_path, mode="offline") as tracked:
        assert to_wandb(recorded(tmp_path), tracked) == 5
    wandb.teardown()  # its process writes the file; it has written when it has ended
    (file,) = tmp_path.rglob("*.wandb")
    history = []
    for packet in wandb_packets(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(packet)
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            history.append(
                {key: number for key, number in row.items() if key.startswith("tameopt") or key == "_step"}
            )
    assert history == [
        {"tameopt/loss": 3.0, "tameopt/lr": 0.1, "_step": 0},
        {"tameopt/lr": 0.1, "_step": 1},
        {"tameopt/loss": 1.0, "tameopt/lr": 0.1, "_step": 2},
    ]


@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    from tameopt.integrations.trackers import to_mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    run_id = client.create_run(client.create_experiment("e")).info.run_id
    assert to_mlflow(recorded(tmp_path), client, run_id) == 5
    history = client.get_metric_history(run_id, "tameopt/loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 3.0), (2, 1.0)]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from tameopt.extras import MissingExtraError, require

    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(MissingExtraError, match="pip install lightning"):
        require("lightning.pytorch", "TameCallback")
