"""nnU-Net's own commands find and configure the trainer, and resume a stopped training."""

import pytest
import torch
from commands import ROOT
from made_segmentation import CPU, SGD, config, trainer_of
from omegaconf import OmegaConf

from tasks.engine import checkpoint
from tasks.engine.errors import UserError
from tasks.segmentation import nnunet, validation


@pytest.fixture
def own(made, tmp_path, monkeypatch):
    """Set nnU-Net's variables for the made data set, and CPR_CONFIG to a file with these settings."""

    def set_up(*settings: str) -> None:
        trainer_of(made, tmp_path)  # points nnU-Net's variables to the data
        path = tmp_path / "my.yaml"
        OmegaConf.save(config(made, *settings), path, resolve=True)
        monkeypatch.setenv("nnUNet_extTrainer", str(ROOT / "tasks" / "segmentation"))
        monkeypatch.setenv("CPR_CONFIG", str(path))

    return set_up


@pytest.mark.slow
def test_nnunet_s_command_line_finds_the_trainer_and_its_configuration(own, monkeypatch):
    from nnunetv2.run.run_training import get_trainer_from_args

    own("regularizer=adamcpr_ws", "num_steps=500")
    trainer = get_trainer_from_args("900", "3d_fullres", 1, "CPRTrainer", device=CPU)
    trainer.initialize()
    assert type(trainer.optimizer).__name__ == "AdamCPR"
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.fold) == (2, 250, 1)
    monkeypatch.delenv("CPR_CONFIG")
    with pytest.raises(UserError, match="CPRTrainer needs a configuration: set CPR_CONFIG"):
        get_trainer_from_args("900", "3d_fullres", 1, "CPRTrainer", device=CPU).initialize()


def test_a_training_that_is_stopped_and_continued_ends_with_the_same_weights(own, tmp_path, monkeypatch):
    from nnunetv2.run.run_training import run_training_entry
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    own("regularizer=sgd_cpr", *SGD[1:], "regularizer.warm_start=2", "num_steps=4")
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", with_two_short_epochs(nnUNetTrainer.on_train_start))
    command = ["nnUNetv2_train", "900", "3d_fullres", "0", "-tr", "CPRTrainer", "-device", "cpu"]

    def train(results: str, *more: str) -> str:
        """Run nnUNetv2_train with its validation. Return the digest of the final weights."""
        monkeypatch.setenv("nnUNet_results", str(tmp_path / results))
        monkeypatch.setattr("sys.argv", [*command, *more])
        with nnunet.pools(0, validation.TRAINER, validation.METRICS):
            run_training_entry()
        (saved,) = (tmp_path / results).glob("*/*/fold_0/checkpoint_final.pth")
        assert len(list(saved.parent.glob("validation/case_*.nii.gz"))) == 2
        return checkpoint.digest(torch.load(saved, weights_only=False)["network_weights"])

    undisturbed = train("whole")
    with monkeypatch.context() as stopping:
        stopping.setattr(nnUNetTrainer, "on_epoch_start", stopped_in_the_second_epoch(nnUNetTrainer.on_epoch_start))
        with pytest.raises(KeyboardInterrupt):
            train("stopped")
    assert not list((tmp_path / "stopped").glob("*/*/fold_0/checkpoint_final.pth"))
    assert train("stopped", "--c") == undisturbed


def with_two_short_epochs(on_train_start):
    """Return a hook that sets two epochs of two iterations, with a checkpoint after each.

    nnU-Net's epochs have 250 iterations, and every fiftieth epoch has a checkpoint."""

    def started(self):
        on_train_start(self)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch, self.save_every = 2, 2, 1, 1
        self.logger.plot_progress_png = lambda _: None  # matplotlib would take seconds

    return started


def stopped_in_the_second_epoch(on_epoch_start):
    def started(self):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        on_epoch_start(self)

    return started
