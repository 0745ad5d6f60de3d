"""What replaces the options of other trainers, for the message about an option that does not exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

_FOLDER: Final = "the first argument, run_folder"
_SCHEDULER: Final = "plugins=[TorchScheduler(…)] of trainwire.plugins.torch_scheduler"
_WARM_UP: Final = "plugins=[LinearSchedule(warmup_fraction=…)] of trainwire.plugins.linear_schedule"
_ANNEALING: Final = "plugins=[AnnealingOnPlateau({})] of trainwire.plugins.annealing"
_CALLBACKS: Final = "plugins=[…], with plugins of trainwire.plugins or your own"
_GRADIENTS: Final = "max_grad_norm"
_CHUNKS: Final = "mini_batch_chunk_size, which splits a batch: the gradient is that of mini_batch_size samples"
_STOPPING: Final = "plugins=[EarlyStopping(patience=…)] of trainwire.plugins.early_stopping"
_CHECKPOINTS: Final = "plugins=[Checkpoints({})] of trainwire.plugins.checkpoints"
_SINKS: Final = "sinks, such as sinks=['loss-file', 'tensorboard']"
_LOGGING: Final = "plugins=[RegularLogging(…)] of trainwire.plugins.regular_logging; each step is recorded anyway"
_ARGUMENTS: Final = "optimizer_arguments={{'{}': …}}"

REPLACEMENTS: Final[Mapping[str, str]] = {
    # flair
    "base_path": _FOLDER,
    "patience": f"{_ANNEALING.format('patience=…')} or {_STOPPING}",
    "anneal_factor": _ANNEALING.format("factor=…"),
    "min_learning_rate": _ANNEALING.format("min_learning_rate=…"),
    "initial_extra_patience": _ANNEALING.format("initial_extra_patience=…"),
    "anneal_with_restarts": _ANNEALING.format("back_to_best=True"),
    "anneal_with_prestarts": _ANNEALING.format("back_to_best=True"),
    "warmup_fraction": _WARM_UP,
    "scheduler": _SCHEDULER,
    "checkpoint": f"{_CHECKPOINTS.format('epochs=1')}; checkpoints are saved by default",
    "embeddings_storage_mode": "nothing: what a dataset returns is never changed or stored",
    "gold_label_dictionary_for_eval": "a metric that is given to ModelTrainer(metrics=…)",
    "epoch": "resume=True, which continues with the epoch after the last checkpoint",
    "use_swa": "plugins=[SWA(…)] of trainwire.plugins.swa",
    "use_tensorboard": "sinks=['tensorboard']",
    "tensorboard_log_dir": "sinks=['tensorboard']",
    "weight_extractor_plugin": "write_weights=True",
    "reduce_transformer_vocab": "nothing: reduce the vocabulary of the model before the training",
    # the trainers of Hugging Face, Lightning and Keras
    "epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "num_train_epochs": "max_epochs",
    "batch_size": "mini_batch_size",
    "per_device_train_batch_size": "mini_batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "lr": "learning_rate",
    "weight_decay": _ARGUMENTS.format("weight_decay"),
    "momentum": _ARGUMENTS.format("momentum"),
    "betas": _ARGUMENTS.format("betas"),
    "optim": "optimizer",
    "optimizers": f"optimizer, and {_SCHEDULER}",
    "lr_scheduler": _SCHEDULER,
    "lr_scheduler_type": _SCHEDULER,
    "warmup_ratio": _WARM_UP,
    "warmup_steps": _WARM_UP,
    "callbacks": _CALLBACKS,
    "logger": _SINKS,
    "loggers": _SINKS,
    "report_to": _SINKS,
    "logging_dir": _FOLDER,
    "log_dir": _FOLDER,
    "logging_steps": _LOGGING,
    "log_every_n_steps": _LOGGING,
    "output_dir": _FOLDER,
    "default_root_dir": _FOLDER,
    "gradient_clip_val": _GRADIENTS,
    "max_norm": _GRADIENTS,
    "clip_grad_norm": _GRADIENTS,
    "accumulate_grad_batches": _CHUNKS,
    "gradient_accumulation_steps": _CHUNKS,
    "precision": "use_amp='bf16' or use_amp='fp16'",
    "fp16": "use_amp='fp16'",
    "bf16": "use_amp='bf16'",
    "amp": "use_amp",
    "mixed_precision": "use_amp",
    "accelerator": "device",
    "devices": "torchrun --nproc-per-node=N",
    "strategy": "torchrun --nproc-per-node=N",
    "early_stopping": _STOPPING,
    "early_stopping_patience": _STOPPING,
    "enable_checkpointing": "default_plugins",
    "save_steps": _CHECKPOINTS.format("steps=…"),
    "save_strategy": _CHECKPOINTS.format("epochs=1"),
    "save_total_limit": _CHECKPOINTS.format("keep_last=…"),
    "metric_for_best_model": "main_evaluation_metric",
    "monitor": "main_evaluation_metric",
    "greater_is_better": "main_evaluation_mode='max' or 'min'",
    "mode": "main_evaluation_mode",
    "load_best_model_at_end": "use_final_model_for_eval=False, the default of train",
    "resume_from_checkpoint": "resume=True",
    "ckpt_path": "resume=True",
    "dataloader_num_workers": "num_workers",
    "dataloader_drop_last": "drop_last",
    "data_collator": "collate_fn",
    "workers": "num_workers",
    "enable_progress_bar": "plugins=[ProgressBar()] of trainwire.plugins.progress_bar",
    "profiler": "plugins=[Profiler(…)] of trainwire.plugins.profiler",
    "limit_train_batches": "control.end_epoch() in a hook, or max_steps",
    "steps_per_epoch": "control.end_epoch() in a hook, or max_steps",
    "train_dataset": "train", "train_data": "train", "train_loader": "train", "train_dataloader": "train",
    "train_dataloaders": "train", "data": "train", "dataset": "train",
    "eval_dataset": "dev", "val": "dev", "valid": "dev", "validation_data": "dev", "val_dataset": "dev",
    "val_loader": "dev", "val_dataloader": "dev", "val_dataloaders": "dev", "dev_loader": "dev",
    "test_dataset": "test", "test_loader": "test", "test_dataloader": "test",
    "model": "ModelTrainer(model, …)", "loss": "ModelTrainer(loss=…)", "criterion": "ModelTrainer(loss=…)",
    "loss_fn": "ModelTrainer(loss=…)", "metrics": "ModelTrainer(metrics=…)",
    "compute_metrics": "ModelTrainer(metrics=…)",
}  # fmt: skip


def replacements(names: Iterable[str]) -> list[str]:
    """Return what to write instead of each name that another trainer has, such as "'lr': learning_rate"."""
    return [f"{name!r}: {REPLACEMENTS[name]}" for name in names if name in REPLACEMENTS]
