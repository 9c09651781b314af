"""The reporters that a config asks for, each in a file of its own."""

from importlib.util import find_spec

from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import ConfigError
from jasper_ray.observe.dllogger import DLLoggerFile
from jasper_ray.observe.experiment import MlflowReporter, Shielded, WandbReporter
from jasper_ray.observe.tensorboard import TensorBoardReporter
from jasper_ray.training.report import Reporter


def build_reporters(config: RunConfig) -> list[Reporter]:
    """For the first worker of a run.

    Raises:
        ConfigError: A package that one of them needs is not installed.
    """
    check_reporters(config)
    logs, reporters = config.logs, list[Reporter]()
    if logs.tensorboard:
        reporters.append(TensorBoardReporter(config.output))
    if logs.dllogger:
        reporters.append(DLLoggerFile(config))
    if logs.wandb_project is not None:
        reporters.append(Shielded(WandbReporter(config, project=logs.wandb_project), name="Weights & Biases"))
    if logs.mlflow_uri is not None:
        reporters.append(Shielded(MlflowReporter(config, uri=logs.mlflow_uri), name="MLflow"))
    return reporters


def check_reporters(config: RunConfig) -> None:
    """Look for the packages, before workers start.

    Raises:
        ConfigError: One is not installed; says what to do.
    """
    logs = config.logs
    wanted = {
        "logs.tensorboard": ("tensorboardX", "ray") if logs.tensorboard else None,
        "logs.wandb_project": ("wandb", "wandb") if logs.wandb_project is not None else None,
        "logs.mlflow_uri": ("mlflow", "mlflow") if logs.mlflow_uri is not None else None,
    }
    for key, needed in wanted.items():
        if needed is not None and find_spec(needed[0]) is None:
            raise ConfigError(
                f"{key} needs the package {needed[0]}, which is not installed: pip install 'jasper-ray[{needed[1]}]', "
                f"or set {key}={'false' if key == 'logs.tensorboard' else 'null'}"
            )
