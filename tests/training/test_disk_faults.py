"""Disks that are full, folders that may not be written, files that were cut: a clear error, and nothing lost."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchebm.core import HarmonicModel
from torchebm.losses import ContrastiveDivergence
from torchebm.models import MLPEnergy
from torchebm.samplers import LangevinDynamics
from torchebm.training import Trainer, TrainingWarning
from torchebm.training.checkpoint import list_checkpoints, load_checkpoint, newest_checkpoint, save_checkpoint


def points(n=200):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


def trainer_of(out_dir, **options):
    torch.manual_seed(0)
    model = MLPEnergy(2, [8]) + HarmonicModel()
    loss_fn = ContrastiveDivergence(model, LangevinDynamics(model), k_steps=1, persistent=True, buffer_size=100)
    return Trainer(loss_fn, out_dir=out_dir, log_every=5, checkpoint_every=10, **options)


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# writing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT], ids=os.strerror)
@pytest.mark.parametrize("when", ["tensors", "json"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, number, when):
    trainer = trainer_of(tmp_path)
    trainer.fit(points(), 20, 50, progress=False)
    before = contents(tmp_path / "checkpoints")
    if when == "tensors":
        target, calls = "torchebm.training.checkpoint.save_file", []

        def full(tensors, path):
            calls.append(path)
            Path(path).write_bytes(b"cut")
            if len(calls) > 2:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(target, full)
    else:
        write_text = Path.write_text

        def full(path, text, **options):
            if path.name == "checkpoint.json":
                write_text(path, text[:10])
                raise OSError(number, os.strerror(number), str(path))
            return write_text(path, text, **options)

        monkeypatch.setattr(Path, "write_text", full)
    reason = os.strerror(number)
    says = f"step-00000030 could not be written .*{reason}.*step-00000020 is complete and unharmed.*resume=True"
    with pytest.raises(OSError, match=says) as error:
        trainer.fit(points(), 40, 50, progress=False)
    assert error.value.errno == number
    assert contents(tmp_path / "checkpoints") == before
    monkeypatch.undo()
    resumed, whole = trainer_of(tmp_path), trainer_of(None)
    resumed.fit(points(), 40, 50, resume=True, progress=False)
    whole.fit(points(), 40, 50, progress=False)
    assert torch.equal(weights(resumed), weights(whole))
    assert [line["step"] for line in resumed.metrics] == list(range(5, 45, 5))


FULL = """
import resource, sys, torch
from torchebm.training.checkpoint import save_checkpoint
from pathlib import Path
folder = Path(sys.argv[1])
save_checkpoint(folder, 1, {"model": {"w": torch.ones(100)}}, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(folder, 2, {"model": {"w": torch.ones(100)}, "ema": {"w": torch.ones(1_000_000)}}, {})
except OSError as error:
    print(error)
"""


def test_a_write_that_the_system_cuts_short(tmp_path):
    """The kernel's own refusal, in the middle of a file of tensors."""
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "step-00000002 could not be written" in done.stdout
    assert "step-00000001 is complete and unharmed" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert torch.equal(load_checkpoint(tmp_path / "step-00000001").tensors["model"]["w"], torch.ones(100))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_line_of_metrics_that_does_not_fit(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.fit(points(), 10, 50, progress=False)
    trainer.records.path = Path("/dev/full")
    message = r"a line of /dev/full could not be written .*No space left on device.*step-00000010 is complete"
    with pytest.raises(OSError, match=message):
        trainer._close_window(None) if trainer.window.n else trainer.tell(10, "warning", "a", "b")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"metrics.jsonl could not be written .*; no checkpoint is complete yet"):
        trainer_of(tmp_path / "file" / "run").fit(points(), 5, 50, progress=False)


def test_a_folder_that_may_only_be_read(tmp_path, monkeypatch):
    """The superuser may write where others may not, so the refusal is the test's own."""
    trainer_of(tmp_path).fit(points(), 10, 50, progress=False)
    before = contents(tmp_path)

    def refused(path, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(
        PermissionError, match=r"metrics.jsonl could not be written .*step-00000010 is complete and unharmed"
    ):
        trainer_of(tmp_path).fit(points(), 20, 50, resume=True, progress=False)
    assert contents(tmp_path) == before


# reading -------------------------------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def emptied(path):
    path.write_bytes(b"")


def changed(path):
    """One bit, in the last tensor."""
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


DAMAGES = [(name, damage) for name in ("model.safetensors", "optimizer.safetensors")
           for damage in (cut, emptied, changed, Path.unlink)]  # fmt: skip


@pytest.mark.parametrize(("name", "damage"), [*DAMAGES, ("checkpoint.json", cut), ("checkpoint.json", emptied)])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, name, damage):
    trainer_of(tmp_path).fit(points(), 20, 50, progress=False)
    newest = newest_checkpoint(tmp_path / "checkpoints")
    damage(newest / name)
    says = rf"step-00000020 cannot be read: {name}: .*; remove it to use .*step-00000010"
    with pytest.raises(ValueError, match=says):
        load_checkpoint(newest)
    resumed, whole = trainer_of(tmp_path), trainer_of(None)
    with pytest.warns(
        TrainingWarning, match=rf"{says}. It is kept as damaged-step-00000020; this run resumes from .*10"
    ):
        resumed.fit(points(), 40, 50, resume=True, progress=False)
    whole.fit(points(), 40, 50, progress=False)
    assert torch.equal(weights(resumed), weights(whole))
    assert [line["step"] for line in resumed.metrics] == list(range(5, 45, 5))
    assert (tmp_path / "checkpoints/damaged-step-00000020").is_dir()


def test_nothing_is_made_up_where_nothing_can_be_read(tmp_path):
    trainer_of(tmp_path).fit(points(), 20, 50, progress=False)
    for path in list_checkpoints(tmp_path / "checkpoints"):
        cut(path / "model.safetensors")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"step-00000020 cannot be read: model.safetensors"):
        trainer_of(tmp_path).fit(points(), 40, 50, resume=True, progress=False)
    assert contents(tmp_path) == before


def test_an_only_checkpoint_that_is_damaged_says_what_is_left_to_do(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"model": {"w": torch.ones(200)}}, {})
    cut(path / "model.safetensors")
    with pytest.raises(ValueError, match="there is none before it, so train anew"):
        load_checkpoint(path)


def test_lost_lines_are_told(tmp_path):
    trainer_of(tmp_path).fit(points(), 20, 50, progress=False)
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    with pytest.warns(TrainingWarning, match="has 2 lines, and had 4 when the checkpoint was written"):
        trainer_of(tmp_path).fit(points(), 30, 50, resume=True, progress=False)


def test_a_log_that_was_being_rewritten_is_whole(tmp_path):
    """A process killed while it opened the log leaves the old one; what it was writing is replaced by the next."""
    trainer_of(tmp_path).fit(points(), 20, 50, progress=False)
    (tmp_path / "metrics.jsonl.partial").write_text('{"step": 5, "lo')
    trainer = trainer_of(tmp_path)
    trainer.fit(points(), 30, 50, resume=True, progress=False)
    assert [line["step"] for line in trainer.metrics] == list(range(5, 35, 5))
    assert not (tmp_path / "metrics.jsonl.partial").exists()


def test_a_checkpoint_that_was_being_removed_is_not_there(tmp_path):
    for step in range(3):
        save_checkpoint(tmp_path, step, {"model": {"w": torch.ones(2)}}, {})
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000000.77")
    (tmp_path / ".step-00000000.77/model.safetensors").unlink()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000001", "step-00000002"]
    save_checkpoint(tmp_path, 3, {"model": {"w": torch.ones(2)}}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_those_that_are_needed_are_kept(tmp_path):
    for step in range(5):
        save_checkpoint(tmp_path, step, {"model": {"w": torch.ones(2)}}, {}, keep=[1])
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000001", "step-00000003", "step-00000004"]
